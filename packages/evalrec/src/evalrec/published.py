"""The data sets of papers by name: how each is made from public files, and its published counts.

Every number comes from its `source`. If the public files are known to give another number, the
note explains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evalrec.interactions import DataError
from evalrec.reduction import PrepareOptions


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """A data set, as a paper or the publisher of the files describes it.

    Attributes:
        name: As on the command line.
        format: The format or the table of its raw files.
        files: A description of the raw files.
        source: The publication with the counts.
        counts: The published numbers of "users", "items" and "interactions".
        options: Which interactions of the raw files are kept.
        note: Known differences from the public files.
    """

    name: str
    format: str
    files: str
    source: str
    counts: Mapping[str, int]
    options: PrepareOptions = field(default_factory=PrepareOptions)
    note: str = ""

    def compare(self, counts: Mapping[str, int]) -> list[CountDifference]:
        """Compares the published counts with others of "users", "items" and "interactions"."""
        return [
            CountDifference(name=name, published=published, here=counts[name])
            for name, published in self.counts.items()
        ]


@dataclass(frozen=True, kw_only=True)
class CountDifference:
    """A published count, and the same count of your data.

    Attributes:
        name: "users", "items" or "interactions".
        published: The published number.
        here: The number in your data.
    """

    name: str
    published: int
    here: int

    @property
    def difference(self) -> int:
        """The count of your data minus the published count."""
        return self.here - self.published


def get_published(name: str) -> PublishedSet:
    """The data set with a name.

    Raises:
        DataError: If there is no such data set; the message names all data sets.
    """
    if name not in PUBLISHED:
        raise DataError(f"published must be one of {', '.join(PUBLISHED)}, got {name!r}")
    return PUBLISHED[name]


def _counts(
    users: int | None = None, items: int | None = None, interactions: int | None = None
) -> dict[str, int]:
    counts = {"users": users, "items": items, "interactions": interactions}
    return {name: count for name, count in counts.items() if count is not None}


def _amazon_2014(name: str, file: str, counts: Mapping[str, int], *, fewer: int) -> PublishedSet:
    return PublishedSet(
        name=name,
        format="amazon2014",
        files=f"reviews_{file}_5.json.gz, meta_{file}.json.gz",
        source="PRORec, table 2",
        counts=counts,
        note=f"the public file has {counts['interactions'] + fewer:,} interactions, {fewer} more "
        "than the paper prints; no step that the paper describes leaves them out",
    )


def _amazon_2023(name: str, file: str, counts: Mapping[str, int]) -> PublishedSet:
    return PublishedSet(
        name=name,
        format="amazon2023",
        files=f"{file}.csv of benchmark/5core/rating_only, or {file}.jsonl.gz, all reviews; "
        f"meta_{file}.jsonl.gz",
        source="CoCoRec, table 2",
        counts=counts,
        # The benchmark keeps the earliest review of each pair, and then the 5-core.
        options=PrepareOptions(duplicates="first"),
        note="counted before histories are cut to the last 20 items",
    )


_TSSR_NOTE = (
    "the paper cuts sequences to their last {} and filters by 5; it states neither the order "
    "of these steps, nor the treatment of repeated pairs{}, and the counts depend on these"
)


def _tssr(
    name: str,
    form: str,
    files: str,
    counts: Mapping[str, int],
    *,
    last: int = 10,
    sample_users: int | None = None,
    images: bool = True,
    unsaid: str = "",
) -> PublishedSet:
    return PublishedSet(
        name=name,
        format=form,
        files=files,
        source="TSSR, table 2",
        counts=counts,
        options=PrepareOptions(max_history=last, sample_users=sample_users, keep_images=images),
        note=_TSSR_NOTE.format(last, unsaid),
    )


_ALL = PrepareOptions(k_core=1)
_MERGED = "raw counts; lines of one user, item and time count once unless --doubles keep"

_SETS = (
    _amazon_2014("prorec-beauty", "Beauty", _counts(22_363, 12_101, 198_360), fewer=142),
    _amazon_2014(
        "prorec-sports", "Sports_and_Outdoors", _counts(35_598, 18_357, 296_175), fewer=162
    ),
    _amazon_2014("prorec-toys", "Toys_and_Games", _counts(19_412, 11_924, 167_526), fewer=71),
    _amazon_2023("cocorec-instruments", "Musical_Instruments", _counts(57_439, 24_587, 511_836)),
    _amazon_2023(
        "cocorec-scientific", "Industrial_and_Scientific", _counts(50_985, 25_848, 412_947)
    ),
    _amazon_2023("cocorec-games", "Video_Games", _counts(94_762, 25_612, 814_586)),
    _amazon_2023("cocorec-baby", "Baby_Products", _counts(150_777, 36_013, 1_241_083)),
    _tssr(
        "tssr-hm",
        "hm",
        "transactions_train.csv, articles.csv, the folder images",
        _counts(100_000, 61_574, 692_413),
        sample_users=100_000,
        unsaid=", nor which users it drew",
    ),
    _tssr(
        "tssr-yelp",
        "yelp",
        "yelp_academic_dataset_review.json, yelp_academic_dataset_business.json, photos.json",
        _counts(173_318, 36_208, 1_348_192),
        unsaid=", nor which year's edition it took",
    ),
    _tssr(
        "tssr-phone",
        "amazon2018",
        "Cell_Phones_and_Accessories_5.json.gz, meta_Cell_Phones_and_Accessories.json.gz",
        _counts(128_647, 42_675, 841_657),
        unsaid=", nor which of the files it took",
    ),
    _tssr(
        "tssr-toy",
        "amazon2018",
        "Toys_and_Games_5.json.gz, meta_Toys_and_Games.json.gz",
        _counts(141_303, 55_285, 996_576),
        unsaid=", nor which of the files it took",
    ),
    _tssr(
        "tssr-mind",
        "mind",
        "behaviors.tsv of the large edition's parts, news.tsv",
        _counts(768_079, 81_496, 10_437_301),
        last=20,
        images=False,
        unsaid=", nor whether histories count",
    ),
    PublishedSet(
        name="lcrec-games",
        format="amazon2018",
        files="Video_Games.csv (ratings only) or Video_Games.json.gz, meta_Video_Games.json.gz",
        source="LC-Rec's Video Games, counted in the copy of WncFht/GenRec",
        counts=_counts(50_546, 16_859, 452_989),
        # LC-Rec's script keeps the earliest rating of each pair, described items, and the 5-core.
        options=PrepareOptions(unknown_items="drop", duplicates="first"),
        note="in that script the order within a day is random, so sequences may differ",
    ),
    PublishedSet(
        name="steam",
        format="steam",
        files="steam_reviews.json.gz, steam_games.json.gz",
        source="Kang and McAuley, Self-Attentive Sequential Recommendation, 2018",
        counts=_counts(2_567_538, 15_474, 7_793_069),
        options=_ALL,
        note=_MERGED,
    ),
    PublishedSet(
        name="gowalla",
        format="gowalla",
        files="loc-gowalla_totalCheckins.txt.gz",
        source="the data set's page at snap.stanford.edu",
        counts=_counts(interactions=6_442_890),
        options=_ALL,
        note=_MERGED,
    ),
    PublishedSet(
        name="microlens-100k",
        format="microlens",
        files="MicroLens-100k_pairs.csv, MicroLens-100k_title_en.csv",
        source="Ni and others, A Content-Driven Micro-Video Recommendation Dataset at Scale, 2023",
        counts=_counts(100_000, 19_738, 719_405),
        options=_ALL,
        note=_MERGED,
    ),
    PublishedSet(
        name="taobao",
        format="taobao",
        files="UserBehavior.csv",
        source="the data set's page at tianchi.aliyun.com",
        counts=_counts(987_994, 4_162_024, 100_150_807),
        options=_ALL,
        note=_MERGED,
    ),
)

PUBLISHED: dict[str, PublishedSet] = {published.name: published for published in _SETS}
"""The data sets of `evalrec prepare --published`, by name."""
