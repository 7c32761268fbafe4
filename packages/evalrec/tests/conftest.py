"""Small raw files in the exact layout of each public format, all of the same events."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

NUM_USERS, NUM_ITEMS = 8, 7
DAY, START = 86_400, 1_400_025_600  # a midnight
GENRES = 19

# (user, item, day, rating): each user has six of the seven items, on days that grow within a user;
# in the files they stand in no order.
EVENTS = [
    (user, (user * 3 + step * 5) % NUM_ITEMS, 10 * step + user, float(1 + (user + step) % 5))
    for user in range(NUM_USERS)
    for step in range(6)
]
SHUFFLED = [EVENTS[row] for row in np.random.default_rng(0).permutation(len(EVENTS))]


def seconds(day: int) -> int:
    return START + DAY * day


def moment(day: int, style: str) -> str:
    return datetime.fromtimestamp(seconds(day), UTC).strftime(style)


def lines(records: list[dict]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def amazon2014() -> dict[str, str]:
    reviews = [
        {
            **{"reviewerID": f"A{user}", "asin": f"B00{item}", "reviewerName": 'J "Jo" M.'},
            **{"helpful": [0, 2], "reviewText": "Fine.\nVery {fine}.", "overall": rating},
            **{"summary": "ok", "unixReviewTime": seconds(day), "reviewTime": "05 14, 2014"},
        }
        for user, item, day, rating in SHUFFLED
    ]
    items = [
        {
            **{"asin": f"B00{item}", "title": f"Soap &amp; <b>Water</b> {item}", "price": 3.17},
            **{"imUrl": f"http://e.org/{item}.jpg", "related": {"also_bought": ["B001", "B002"]}},
            **{"salesRank": {"Beauty": 211836}, "brand": "L'Or", "description": "It's\n<br/>new"},
            **{"categories": [["Beauty", "Bath"], ["Beauty", "Soap"]]},
        }
        for item in range(NUM_ITEMS)
    ]
    meta = "".join(f"{record!r}\n" for record in items)
    return {"reviews_Beauty_5.json.gz": lines(reviews), "meta_Beauty.json.gz": meta}


def amazon2018() -> dict[str, str]:
    reviews = [
        {
            **{"overall": rating, "vote": "3", "verified": True, "reviewTime": "05 14, 2014"},
            **{"reviewerID": f"A{user}", "asin": f"B00{item}", "style": {"Size:": " Large"}},
            **{"reviewerName": "x", "reviewText": "y", "summary": "z"},
            **{"unixReviewTime": seconds(day), "image": ["https://example.org/1.jpg"]},
        }
        for user, item, day, rating in SHUFFLED
    ]
    items = [
        {
            **{"category": ["Beauty", "Soap &amp; Bath"], "tech1": "", "fit": "", "also_buy": []},
            **{"description": ["One.", "<p>Two.</p>"], "title": f"Soap {item}", "brand": "Lor"},
            **{"feature": ["Soft", "", "Mild &lt; 5"], "rank": "21 in Beauty", "main_cat": "All"},
            **{"date": "", "price": "$3.17", "asin": f"B00{item}"},
            **{"imageURL": [f"http://e.org/small{item}.jpg"]},
            **{"imageURLHighRes": [f"http://e.org/{item}.jpg"] if item != 6 else []},
        }
        for item in range(NUM_ITEMS)
    ]
    twice = {**items[0], "title": "Soap again"}  # the real files hold items twice
    return {"Beauty_5.json.gz": lines(reviews), "meta_Beauty.json.gz": lines([*items, twice])}


def amazon2023() -> dict[str, str]:
    reviews = [
        {
            **{"rating": rating, "title": "t", "text": "Nice<br />one", "images": []},
            **{"asin": f"C00{item}", "parent_asin": f"B00{item}", "user_id": f"AE{user}"},
            **{"timestamp": seconds(day) * 1000, "helpful_vote": 0, "verified_purchase": True},
        }
        for user, item, day, rating in SHUFFLED
    ]
    items = [
        {
            **{"main_category": "All Beauty", "title": f"Soap {item}", "average_rating": 4.8},
            **{"rating_number": 10, "features": ["Soft"], "description": ["Clean."]},
            **{"price": None, "videos": [], "store": "Store"},
            "images": [
                {"thumb": "t.jpg", "large": "side.jpg", "hi_res": "side.jpg", "variant": "PT01"},
                {"thumb": "t.jpg", "large": f"http://e.org/{item}.jpg", "hi_res": None}
                | {"variant": "MAIN"},
            ],
            **{"categories": ["Beauty", "Soap"], "details": {"Brand": "Lor"}},
            **{"parent_asin": f"B00{item}", "bought_together": None},
        }
        for item in range(NUM_ITEMS)
    ]
    return {"All_Beauty.jsonl.gz": lines(reviews), "meta_All_Beauty.jsonl.gz": lines(items)}


def amazon2023_last_out(with_history: bool) -> dict[str, str]:
    """The benchmark's three files of one leave-last-out split."""
    head = "user_id,parent_asin,rating,timestamp" + (",history" if with_history else "")
    rows: dict[str, list[str]] = {"train": [head], "valid": [head], "test": [head]}
    for user in range(NUM_USERS):
        had: list[str] = []
        for step, (_, item, day, rating) in enumerate(EVENTS[6 * user : 6 * user + 6]):
            part = {4: "valid", 5: "test"}.get(step, "train")
            row = f"AE{user},B00{item},{rating},{seconds(day) * 1000}"
            rows[part].append(row + ("," + " ".join(had) if with_history else ""))
            had.append(f"B00{item}")
    return {f"All_Beauty.{part}.csv": "\n".join(lines) + "\n" for part, lines in rows.items()}


def amazon2023_ratings() -> dict[str, str]:
    """The benchmark's `rating_only`."""
    rows = "".join(
        f"AE{user},B00{item},{rating},{seconds(day) * 1000}\n"
        for user, item, day, rating in SHUFFLED
    )
    return {"All_Beauty.csv.gz": "user_id,parent_asin,rating,timestamp\n" + rows}


def amazon2023_timestamps() -> dict[str, str]:
    """The benchmark's three files of one split at two moments: many targets a user, or none."""
    head = "user_id,parent_asin,rating,timestamp\n"
    parts = {"train": head, "valid": head, "test": head}
    for user, item, day, rating in EVENTS:
        part = "train" if day < 25 else "valid" if day < 37 else "test"
        parts[part] += f"AE{user},B00{item},{rating},{seconds(day) * 1000}\n"
    return {f"All_Beauty.{part}.csv": text for part, text in parts.items()}


def amazon2018_ratings() -> dict[str, str]:
    """The ratings alone, without a header, beside the metadata."""
    rows = "".join(
        f"B00{item},A{user},{rating},{seconds(day)}\n" for user, item, day, rating in SHUFFLED
    )
    return {"Beauty.csv": rows, "meta_Beauty.json.gz": amazon2018()["meta_Beauty.json.gz"]}


def movielens_100k() -> dict[str, str]:
    data = "".join(
        f"{user + 1}\t{item + 1}\t{rating:.0f}\t{seconds(day)}\n"
        for user, item, day, rating in SHUFFLED
    )
    flags = "|".join("1" if genre in (1, 5) else "0" for genre in range(GENRES))
    items = "".join(
        f"{item + 1}|Café {item} (1995)|01-Jan-1995||http://us.imdb.com/M/title-exact?C|{flags}\n"
        for item in range(NUM_ITEMS)
    )
    return {"u.data": data, "u.item": items}


def movielens_1m() -> dict[str, str]:
    data = "".join(
        f"{user + 1}::{item + 1}::{rating:.0f}::{seconds(day)}\n"
        for user, item, day, rating in SHUFFLED
    )
    items = "".join(f"{i + 1}::Café {i} (1995)::Action|Comedy\n" for i in range(NUM_ITEMS))
    return {"ratings.dat": data, "movies.dat": items}


def movielens_csv() -> dict[str, str]:
    data = "userId,movieId,rating,timestamp\n" + "".join(
        f"{user + 1},{item + 1},{rating},{seconds(day)}\n" for user, item, day, rating in SHUFFLED
    )
    items = "movieId,title,genres\n" + "".join(
        f'{item + 1},"Café, The ""{item}"" (1995)",Action|Comedy\n' for item in range(NUM_ITEMS)
    )
    return {"ratings.csv": data, "movies.csv": items}


def mind() -> dict[str, str]:
    """Two clicks in the history of every impression, then one click in each impression."""
    rows = []
    for user in range(NUM_USERS):
        items = [item for _, item, _, _ in EVENTS[6 * user : 6 * user + 6]]
        for step in range(2, 6):
            time = moment(10 * step + user, "%m/%d/%Y %I:%M:%S %p").removeprefix("0")
            before = " ".join(f"N{item}" for item in items[:2])
            other = f"N{(items[step] + 1) % NUM_ITEMS}-0"
            rows.append(f"U{user}\t{time}\t{before}\t{other} N{items[step]}-1")
    order = np.random.default_rng(1).permutation(len(rows))
    behaviors = "".join(f"{place + 1}\t{rows[row]}\n" for place, row in enumerate(order))
    news = "".join(
        f'N{item}\tnews\tnewsworld\tA "quiet" day {item}\tIt &amp; rained\thttps://e.org\t'
        '[{"Label": "Day", "Type": "X"}]\t[]\n'
        for item in range(NUM_ITEMS)
    )
    return {"behaviors.tsv": behaviors, "news.tsv": news}


def hm() -> dict[str, str]:
    data = "t_dat,customer_id,article_id,price,sales_channel_id\n" + "".join(
        f"{moment(day, '%Y-%m-%d')},{'00' * 31}{user:02x},010877{item},0.05083050847457627,2\n"
        for user, item, day, _ in SHUFFLED
    )
    head = (
        "article_id,product_code,prod_name,product_type_no,product_type_name,product_group_name,"
        "graphical_appearance_no,graphical_appearance_name,colour_group_code,colour_group_name,"
        "perceived_colour_value_id,perceived_colour_value_name,perceived_colour_master_id,"
        "perceived_colour_master_name,department_no,department_name,index_code,index_name,"
        "index_group_no,index_group_name,section_no,section_name,garment_group_no,"
        "garment_group_name,detail_desc\n"
    )
    items = head + "".join(
        f"010877{item},0108775,Strap top {item},253,Vest top,Garment Upper body,1010016,Solid,09,"
        "Black,4,Dark,5,Black,1676,Jersey Basic,A,Ladieswear,1,Ladieswear,16,"
        'Womens Everyday Basics,1002,Jersey Basic,"Jersey top, with straps."\n'
        for item in range(NUM_ITEMS)
    )
    return {"transactions_train.csv": data, "articles.csv": items}


def yelp() -> dict[str, str]:
    reviews = [
        {
            **{"review_id": f"r{user}{item}", "user_id": f"_u{user}", "business_id": f"-b{item}"},
            **{"stars": rating, "useful": 0, "funny": 0, "cool": 0, "text": "Good \u2764"},
            "date": moment(day, "%Y-%m-%d %H:%M:%S"),
        }
        for user, item, day, rating in SHUFFLED
    ]
    items = [
        {
            **{"business_id": f"-b{item}", "name": f"Caf\u00e9 {item}", "address": "1 Main St"},
            **{"city": "Tucson", "state": "AZ", "postal_code": "85711", "latitude": 32.2},
            **{"longitude": -110.8, "stars": 3.5, "review_count": 22, "is_open": 0},
            **{"attributes": {"BikeParking": "True"}, "categories": "Food, Coffee & Tea"},
            "hours": None,
        }
        for item in range(NUM_ITEMS)
    ]
    return {
        "yelp_academic_dataset_review.json": lines(reviews),
        "yelp_academic_dataset_business.json": lines(items),
    }


def native() -> dict[str, str]:
    data = [
        {"user_id": f"u{user}", "item_id": f"i{item}", "timestamp": seconds(day), "rating": rating}
        for user, item, day, rating in SHUFFLED
    ]
    items = [{"item_id": f"i{item}", "title": f"Soap {item}"} for item in range(NUM_ITEMS)]
    return {"interactions.jsonl.gz": lines(data), "items.jsonl": lines(items)}


# Name of the layout: the format, its files, how ids are spelled, how many units a second has.
LAYOUTS: dict[str, tuple[str, Callable[[], dict[str, str]], str, str, int]] = {
    "native": ("native", native, "u{}", "i{}", 1),
    "amazon2014": ("amazon2014", amazon2014, "A{}", "B00{}", 1),
    "amazon2018": ("amazon2018", amazon2018, "A{}", "B00{}", 1),
    "amazon2023": ("amazon2023", amazon2023, "AE{}", "B00{}", 1000),
    "ratings-2018": ("amazon2018", amazon2018_ratings, "A{}", "B00{}", 1),
    "ratings-2023": ("amazon2023", amazon2023_ratings, "AE{}", "B00{}", 1000),
    "timestamps": ("amazon2023", amazon2023_timestamps, "AE{}", "B00{}", 1000),
    "last-out": ("amazon2023", lambda: amazon2023_last_out(False), "AE{}", "B00{}", 1000),
    "last-out-history": ("amazon2023", lambda: amazon2023_last_out(True), "AE{}", "B00{}", 1000),
    "movielens-100k": ("movielens", movielens_100k, "{+}", "{+}", 1),
    "movielens-1m": ("movielens", movielens_1m, "{+}", "{+}", 1),
    "movielens-csv": ("movielens", movielens_csv, "{+}", "{+}", 1),
    "mind": ("mind", mind, "U{}", "N{}", 1),
    "hm": ("hm", hm, "00" * 31 + "{x}", "010877{}", 1),
    "yelp": ("yelp", yelp, "_u{}", "-b{}", 1),
}


class Raw:
    """One layout's files in a folder, and what should be read from them."""

    def __init__(self, layout: str, folder: Path) -> None:
        self.layout, self.folder = layout, folder
        self.format, make, self._user, self._item, self.units = LAYOUTS[layout]
        folder.mkdir(parents=True)
        self.texts = make()
        for name, text in self.texts.items():
            self.write(name, self.encoded(name, text))

    @property
    def has_items(self) -> bool:
        """Whether a file says what the items are."""
        return self.layout not in ("ratings-2023", "timestamps", "last-out", "last-out-history")

    def encoded(self, name: str, text: str) -> bytes:
        latin = name in ("u.item", "movies.dat")
        return text.encode("latin-1" if latin else "utf-8")

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
        return path

    def user(self, row: int) -> str:
        return self._user.replace("{+}", str(row + 1)).replace("{x}", f"{row:02x}").format(row)

    def item(self, row: int) -> str:
        return self._item.replace("{+}", str(row + 1)).format(row)

    def histories(self) -> dict[str, list[str]]:
        """User id to item ids, oldest first."""
        by_user: dict[str, list[str]] = {}
        for user, item, _, _ in EVENTS:
            by_user.setdefault(self.user(user), []).append(self.item(item))
        return by_user

    def rows(self) -> set[tuple[str, str, int]]:
        """Every interaction with its timestamp."""
        return {
            (self.user(user), self.item(item), seconds(day) * self.units)
            for user, item, day, _ in EVENTS
        }


@pytest.fixture
def make_raw(tmp_path: Path) -> Callable[[str], Raw]:
    """Write the files of a layout, by its name, to a folder of that name."""
    return lambda layout: Raw(layout, tmp_path / layout)


@pytest.fixture(params=list(LAYOUTS))
def raw(request: pytest.FixtureRequest, make_raw: Callable[[str], Raw]) -> Raw:
    """The files of every layout in turn."""
    return make_raw(request.param)


@pytest.fixture
def two_processes(tmp_path: Path) -> Callable[[str, str], list[dict]]:
    """Runs a worker in two processes that gloo joins; gives the JSON that each has written.

    The worker is called with its rank and a folder, which has the source of the problem as
    `problem.py`, and writes RANK.json there.
    """

    def run(problem: str, worker: str) -> list[dict]:
        (tmp_path / "problem.py").write_text(problem)
        (tmp_path / "worker.py").write_text(worker)
        command = [sys.executable, str(tmp_path / "worker.py")]
        processes = [
            subprocess.Popen(
                [*command, str(rank), str(tmp_path)],
                env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(2)
        ]
        output = [process.communicate(timeout=300)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], output
        return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]

    return run
