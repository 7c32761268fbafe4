"""Any table to a native folder: a German shop's export, other forms of it, presets, refusals."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import json
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from html import escape
from itertools import product

import polars as pl
import pytest
from evalrec import DataError, TableOptions, plan_table, prepare_table
from evalrec.cli import main
from evalrec.importing import PRESETS
from evalrec.reduction import PrepareOptions
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

ALL = PrepareOptions(k_core=1, min_interactions=1)
HEAD = ("Bestell-Nr.", "Kunden-Nr.", "Artikelnummer", "Bestelldatum", "Menge", "Einzelpreis")
ORDERS = [
    ("1", "0007", "00012", "2025-10-01T09:00:00.000+02:00", "1", "12,50"),
    ("1", "0007", "00013", "2025-10-01T09:00:00.000+02:00", "2", "3,20"),
    ("2", "0007", "00012", "2025-10-26T02:30:00.500+01:00", "1,5", "12,50"),
    ("3", "0008", "00012", "2025-10-02T09:00:00.000+02:00", "1", "12,50"),
    ("3", "0008", "00012", "2025-10-02T09:00:00.000+02:00", "1", "12,50"),
    ("4", "0008", "00013", "2025-11-02T09:00:00.000+01:00", "-1", "3,20"),
    ("5", "0008", "00099", "2025-11-02T09:00:00.000+01:00", "1", "3,20"),
    ("6", "0008", "00014", "2025-11-03T09:00:00.000+01:00", "1", "1.003,20"),
    ("7", "0009", "00014", "2025-11-03T09:00:00.000+01:00", "1", "3,20"),
]
ITEM_HEAD = ("Artikelnummer", "Bezeichnung", "Marke", "Kategorie", "Preis")
ITEMS = [
    ("00012", "Grüner Tee", "Müller", "Küche > Tee", "12,50"),
    ("00013", "", "Weiß", "Küche > Tassen", "3,20"),
    ("00014", "Becher; groß", "", "Küche", "1,00"),
    ("00015", 'Löffel "Anna"', "Xà", "Küche", "2,00"),
]
SHOP = TableOptions(split_categories=" > ")


def delimited(header, rows, separator=";", quote='"'):
    """A table as a spreadsheet writes it."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, quotechar=quote, lineterminator="\r\n")
    writer.writerows([header, *rows])
    return text.getvalue()


def write(path, data):
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.fixture
def shop(tmp_path):
    """The shop's two files, as it exports them."""
    orders = write(tmp_path / "bestellungen.csv", "\ufeff" + delimited(HEAD, ORDERS))
    return orders, write(tmp_path / "artikel.csv", "\ufeff" + delimited(ITEM_HEAD, ITEMS))


def made(folder):
    """The interactions, the items and the description of a native folder."""
    frame = pl.read_parquet(folder / "interactions.parquet")
    with gzip.open(folder / "items.jsonl.gz", "rt", encoding="utf-8") as lines:
        items = [json.loads(line) for line in lines]
    return frame, items, json.loads((folder / "dataset.json").read_text(encoding="utf-8"))


def ticks(text, unit=1):
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * unit)


def test_a_german_shops_export_becomes_a_native_folder(shop, tmp_path):
    plan = plan_table(*shop, options=SHOP)
    assert plan.orders.text == "; separated, UTF-8 with BOM, decimal comma"
    assert plan.order_columns == {
        "user": "Kunden-Nr.",
        "item": "Artikelnummer",
        "time": "Bestelldatum",
        "weight": "Menge",
    }
    prepared = prepare_table(plan, tmp_path / "out")
    frame, items, description = made(tmp_path / "out")
    assert frame.rows() == [
        ("0007", "00012", ticks("2025-10-01T09:00:00+02:00", 1000), 1.0),
        ("0007", "00013", ticks("2025-10-01T09:00:00+02:00", 1000), 2.0),
        ("0007", "00012", ticks("2025-10-26T02:30:00.500+01:00", 1000), 1.5),
        ("0008", "00012", ticks("2025-10-02T09:00:00+02:00", 1000), 2.0),
        ("0008", "00014", ticks("2025-11-03T09:00:00+01:00", 1000), 1.0),
    ]
    assert items == [
        {
            "item_id": "00012",
            "title": "Grüner Tee",
            "brand": "Müller",
            "categories": ["Küche", "Tee"],
        },
        {"item_id": "00013", "brand": "Weiß", "categories": ["Küche", "Tassen"]},
        {"item_id": "00014", "title": "Becher; groß", "categories": ["Küche"]},
        {
            "item_id": "00015",
            "title": 'Löffel "Anna"',
            "brand": "Xà",
            "categories": ["Küche"],
        },
    ]
    assert prepared.notes == (
        "9 lines of orders",
        "1 line of a quantity of 0 or less, returns, left out",
        "1 line of the user, item and time of another merged with it (--doubles)",
        "1 line of 1 item that the catalogue lacks, such as '00099', left out (--unknown-items)",
        "1 item without a title",
        "1 item of the catalogue without interactions kept, as the last (--unused-items)",
        "1 user with fewer than 2 interactions left out (--min-interactions 1 keeps all)",
    )
    assert description["time_unit"] == "milliseconds"
    assert description["table"]["columns"]["weight"] == ["Menge"]


def excel(path, rows):
    """The smallest Excel file of some rows of text."""
    body = "".join(
        "<row>"
        + "".join(f'<c t="inlineStr"><is><t>{escape(cell)}</t></is></c>' for cell in row)
        + "</row>"
        for row in rows
    )
    spread = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    package = "http://schemas.openxmlformats.org/package/2006"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    kinds = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        '<Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kinds}.sheet.main+xml"/>'
        f'<Override PartName="/xl/sheet.xml" ContentType="{kinds}.worksheet+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{spread}" xmlns:r="{office}"><sheets>'
        '<sheet name="1" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="r1" Type="{office}/worksheet" Target="sheet.xml"/></Relationships>',
        "xl/sheet.xml": f'<worksheet xmlns="{spread}"><sheetData>{body}</sheetData></worksheet>',
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, '<?xml version="1.0" encoding="UTF-8"?>' + text)
    return path


def records(header, rows):
    return [dict(zip(header, row, strict=True)) for row in rows]


def as_form(folder, name, header, rows, form):
    """One table in one form."""
    text = delimited(header, rows)
    packed = {
        "semicolons": (".csv", "\ufeff" + text),
        "tabs": (".tsv", delimited(header, rows, "\t")),
        "bars": (".txt", delimited(header, rows, "|")),
        "single-quotes": (
            ".csv",
            "".join("'" + "','".join(row) + "'\n" for row in [header, *rows]),
        ),
        "utf-16": (".csv", text.encode("utf-16")),
        "latin-1": (".csv", text.encode("latin-1")),
        "gzip": (".csv.gz", gzip.compress(text.encode(), mtime=0)),
        "jsonl": (
            ".jsonl",
            "".join(json.dumps(record) + "\n" for record in records(header, rows)),
        ),
        "jsonl-gzip": (
            ".ndjson.gz",
            gzip.compress(
                "".join(json.dumps(row) + "\n" for row in records(header, rows)).encode(), mtime=0
            ),
        ),
    }
    if form in packed:
        suffix, data = packed[form]
        return write(folder / f"{name}{suffix}", data)
    if form == "excel":
        return excel(folder / f"{name}.xlsx", [header, *rows])
    frame = pl.DataFrame(records(header, rows))
    if form == "parquet-typed" and "Bestelldatum" in header:
        frame = frame.with_columns(
            pl.col("Bestelldatum").str.to_datetime("%+", time_unit="ms", time_zone="UTC"),
            pl.col("Menge").str.replace(",", ".").cast(pl.Float64),
            pl.col("Artikelnummer").cast(pl.Categorical),
        )
    if form == "zstandard":
        plain = io.BytesIO()
        frame.write_csv(plain, separator=";")
        return write(folder / f"{name}.csv.zst", zstandard(plain.getvalue()))
    frame.write_parquet(folder / f"{name}.parquet")
    return folder / f"{name}.parquet"


def zstandard(data):
    """Data in a Zstandard frame of one raw block: the form needs no compression."""
    assert len(data) < 2**17
    header = b"\x28\xb5\x2f\xfd" + bytes([0b10100000]) + len(data).to_bytes(4, "little")
    return header + (len(data) << 3 | 1).to_bytes(3, "little") + data


FORMS = (
    *("semicolons", "tabs", "bars", "single-quotes", "utf-16", "latin-1", "gzip", "zstandard"),
    *("jsonl", "jsonl-gzip", "parquet", "parquet-typed", "excel"),
)


def test_the_same_data_by_every_form_has_the_same_content(tmp_path):
    contents = {}
    forms = [form for form in FORMS if form != "excel" or importlib.util.find_spec("fastexcel")]
    for form in forms:
        folder = tmp_path / form
        folder.mkdir()
        orders = as_form(folder, "orders", HEAD, ORDERS, form)
        items = as_form(folder, "items", ITEM_HEAD, ITEMS, form)
        plan = plan_table(orders, items, options=SHOP)
        counters: dict[str, tuple[int, int]] = {}
        prepared = prepare_table(
            plan,
            folder / "out",
            progress=lambda stage, done, total, counters=counters: counters.update(
                {stage: (done, total)}
            ),
        )
        contents[form] = prepared.content_sha256
        assert list(counters) == ["reading items", "reading", "filtering", "writing"]
        assert all(done == total for done, total in counters.values()), (form, counters)
    assert len(set(contents.values())) == 1, contents


def test_a_missing_extra_is_named_in_one_line(tmp_path):
    path = excel(tmp_path / "a.xlsx", [HEAD, *ORDERS])
    code = (
        "import sys; sys.modules['fastexcel'] = None\n"
        "from evalrec import plan_table\n"
        "try: plan_table(sys.argv[1])\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith(
        "Excel files need the extra evalrec[xlsx]: pip install 'evalrec[xlsx]'"
    )


KEYS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs",), exclude_characters="\0\r"),
    min_size=1,
    max_size=6,
).filter(lambda text: text.strip() == text and text)
ROWS = st.lists(st.tuples(KEYS, KEYS, st.integers(10**8, 2 * 10**9)), min_size=1, max_size=8)


@given(
    rows=ROWS,
    separator=st.sampled_from(";,\t|¦"),
    quote=st.sampled_from("\"'~"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "latin-1"]),
)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_a_table_comes_back_as_it_was_written(tmp_path, rows, separator, quote, encoding):
    text = io.StringIO()
    writer = csv.writer(
        text, delimiter=separator, quotechar=quote, lineterminator="\n", quoting=csv.QUOTE_ALL
    )
    writer.writerows([("user", "item", "time"), *rows])
    try:
        path = write(tmp_path / "a.csv", text.getvalue().encode(encoding))
    except UnicodeEncodeError:
        assume(False)
    options = TableOptions(separator=separator, quote=quote, encoding=encoding, doubles="keep")
    prepare_table(plan_table(path, options=options), tmp_path / "out", options=ALL, overwrite=True)
    frame, _, _ = made(tmp_path / "out")
    assert sorted(frame.rows()) == sorted((user, item, time) for user, item, time in rows)


MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2060, 1, 1))


@pytest.mark.parametrize(
    ("pattern", "form"),
    [
        ("%Y-%m-%dT%H:%M:%S.%f%z", None),
        ("%Y-%m-%d %H:%M", None),
        ("%d.%m.%Y %H:%M:%S", None),
        ("%d.%m.%y", None),
        ("%Y%m%d", None),
        ("%m/%d/%Y %I:%M %p", "%m/%d/%Y %I:%M %p"),
    ],
)
@given(moments=st.lists(MOMENTS, min_size=1, max_size=5), zone=st.sampled_from(["UTC", None]))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_times_are_those_of_python(tmp_path, pattern, form, moments, zone):
    from zoneinfo import ZoneInfo

    local = ZoneInfo(zone or "Europe/Berlin")
    texts = [
        moment.replace(tzinfo=ZoneInfo("Asia/Kolkata") if "%z" in pattern else None).strftime(
            pattern
        )
        for moment in moments
    ]
    expected = []
    for text in texts:
        parsed = datetime.strptime(text, pattern)
        aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=local)
        assume(aware.astimezone(UTC).astimezone(aware.tzinfo).replace(tzinfo=None)
               == parsed.replace(tzinfo=None))  # fmt: skip
        since = aware.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        unit = 10**6 if "%f" in pattern else 1
        expected.append((since.days * 86_400 + since.seconds) * unit
                        + (since.microseconds if unit > 1 else 0))  # fmt: skip
    rows = [("u", f"i{place}", text) for place, text in enumerate(texts)]
    path = write(tmp_path / "a.csv", delimited(("user", "item", "time"), rows))
    options = TableOptions(timezone=zone or "Europe/Berlin", time_format=form)
    prepare_table(plan_table(path, options=options), tmp_path / "out", options=ALL, overwrite=True)
    frame, _, _ = made(tmp_path / "out")
    assert sorted(frame["timestamp"].to_list()) == sorted(expected)


@pytest.mark.parametrize(
    ("value", "kept", "unit"),
    [
        ("1700000000", 1700000000, "seconds"),
        ("1700000000123", 1700000000123, "milliseconds"),
        ("1700000000123456", 1700000000123456, "microseconds"),
        ("1700000000123456789", 1700000000123456789, "nanoseconds"),
        ("1700000000.25", 1700000000250, "milliseconds"),
        ("17", 17, "any"),
        ("20251231", 1767139200, "seconds"),
        ("31.12.2025 14:03", 1767189780, "seconds"),
        ("2025-12-31T14:03:00.123Z", 1767189780123, "milliseconds"),
        ("2025-12-31 14:03:00+0100", 1767186180, "seconds"),
    ],
)
def test_the_unit_of_times_is_seen_and_kept(tmp_path, value, kept, unit):
    path = write(tmp_path / "a.csv", f"user,item,time\nu,i,{value}\n")
    prepare_table(plan_table(path), tmp_path / "out", options=ALL)
    frame, _, description = made(tmp_path / "out")
    assert (frame["timestamp"].to_list(), description["time_unit"]) == ([kept], unit)


def test_typed_times_keep_their_resolution_and_take_the_zone(tmp_path):
    moment = datetime(2025, 7, 1, 12, 0, 0, 5)
    for dtype, zone, expected in (
        (pl.Datetime("us"), None, ticks("2025-07-01T12:00:00+00:00", 10**6) + 5),
        (pl.Datetime("ns"), "Europe/Berlin", ticks("2025-07-01T10:00:00+00:00", 10**9) + 5000),
        (pl.Date, "Europe/Berlin", ticks("2025-06-30T22:00:00+00:00")),
    ):
        frame = pl.DataFrame({"user": ["u"], "item": [7], "when": [moment]})
        frame.with_columns(pl.col("when").cast(dtype)).write_parquet(tmp_path / "a.parquet")
        plan = plan_table(tmp_path / "a.parquet", options=TableOptions(timezone=zone))
        prepare_table(plan, tmp_path / "out", options=ALL, overwrite=True)
        assert made(tmp_path / "out")[0].rows() == [("u", "7", expected)]


def test_what_becomes_of_lines_is_an_option(shop, tmp_path):
    def rows(options, name="out", keep=ALL):
        plan = plan_table(*shop, options=TableOptions(**options))
        prepare_table(plan, tmp_path / name, options=keep, overwrite=True)
        return made(tmp_path / name)

    write(shop[0], shop[0].read_text(encoding="utf-8").replace("1,5", "3"))
    frame, items, _ = rows({"quantity": "repeat", "unused_items": "drop"})
    assert frame.columns == ["user_id", "item_id", "timestamp"]
    assert frame.height == 1 + 2 + 3 + 2 + 1 + 1
    assert len(items) == 3
    frame, _, _ = rows({"quantity": "ignore", "doubles": "keep"})
    assert (frame.height, frame.columns[-1]) == (7, "timestamp")
    frame, items, _ = rows({"unknown_items": "keep"})
    assert "00099" in frame["item_id"].to_list()
    assert {"item_id": "00099"} in items
    text = shop[0].read_text(encoding="utf-8").replace("0009;00014", ";00014")
    write(shop[0], text)
    with pytest.raises(DataError, match=r"line 10: Kunden-Nr\. must be given, got nothing"):
        rows({})
    assert rows({"incomplete": "drop"})[0].height == 5


def test_items_are_made_of_the_orders_own_columns(tmp_path):
    path = write(
        tmp_path / "a.csv",
        "kunde,sku,datum,Titel,Marke\nu,1,2025-01-01,,M\nu,1,2025-01-02,Tee,M\nu,2,2025-01-03,,\n",
    )
    prepare_table(plan_table(path), tmp_path / "out")
    assert made(tmp_path / "out")[1] == [
        {"item_id": "1", "title": "Tee", "brand": "M"},
        {"item_id": "2"},
    ]


def test_images_are_found_from_the_folder_that_is_written(tmp_path):
    orders = write(tmp_path / "o.csv", "user,item,time\nu,1,5\n")
    items = write(tmp_path / "i.csv", "id,bild\n1,fotos/1.jpg\n2,https://example.org/2.jpg\n")
    prepare_table(plan_table(orders, items), tmp_path / "a" / "out", options=ALL)
    records = made(tmp_path / "a" / "out")[1]
    assert records[0]["image"] == "../../fotos/1.jpg"
    assert records[1]["image"] == "https://example.org/2.jpg"


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("user_id;item_id;timestamp", ("user_id", "item_id", "timestamp")),
        ("visitorid;event;itemid;timestamp", ("visitorid", "itemid", "timestamp")),
        ("session_id;item_id;timestamp;customer_id", ("customer_id", "item_id", "timestamp")),
        ("sessionId;itemId;eventdate", ("sessionId", "itemId", "eventdate")),
        ("Kundennummer;Artikel;Artikelnr.;Datum", ("Kundennummer", "Artikelnr.", "Datum")),
        ("ID client;Référence;Code produit;Date", ("ID client", "Code produit", "Date")),
        ("Cliente;Código producto;Fecha", ("Cliente", "Código producto", "Fecha")),
        ("codice cliente;codice articolo;data", ("codice cliente", "codice articolo", "data")),
        ("Klantnummer;Productcode;Besteldatum", ("Klantnummer", "Productcode", "Besteldatum")),
        ("Cliente;Código produto;Data compra", ("Cliente", "Código produto", "Data compra")),
        ("Nr klienta;Kod towaru;Data zamówienia", ("Nr klienta", "Kod towaru", "Data zamówienia")),
    ],
)
def test_columns_are_known_in_several_languages(tmp_path, header, columns):
    cells = ["2025-01-02" if name == columns[2] else "x" for name in header.split(";")]
    path = write(tmp_path / "a.csv", header + "\n" + ";".join(cells) + "\n")
    plan = plan_table(path)
    assert tuple(plan.order_columns[name] for name in ("user", "item", "time")) == columns


LOOK_ALIKES = {
    "steam": (
        {
            "steam_reviews.json.gz": "".join(
                f"{{u'username': u'Chaos', u'hours': 2.5, u'product_id': u'{item}', u'date': "
                f"u'2017-12-1{item}', u'text': u'It\\'s ok', u'early_access': False}}\n"
                for item in (7, 8)
            ),
            "steam_games.json.gz": "{u'id': u'7', u'app_name': u'Kitten', u'developer': u'Dev', "
            "u'genres': [u'Action', u'Indie'], u'tags': [u'Cats']}\n{u'app_name': u'no id', "
            "u'genres': [], u'tags': [], u'developer': u'x'}\n{u'id': u'8', u'tags': [u'Dogs']}\n",
        },
        [("Chaos", "7", 1513468800), ("Chaos", "8", 1513555200)],
        {"item_id": "7", "title": "Kitten", "brand": "Dev"}
        | {"categories": ["Action", "Indie", "Cats"]},
    ),
    "taobao": (
        {"UserBehavior.csv": "1,2268318,2520377,pv,1511544070\n1,2333346,2520771,buy,1511561733\n"},
        [("1", "2268318", 1511544070), ("1", "2333346", 1511561733)],
        {"item_id": "2268318", "categories": ["2520377"]},
    ),
    "tmall": (
        {
            "user_log_format1.csv": "user_id,item_id,cat_id,seller_id,brand_id,time_stamp,"
            "action_type\n328862,323294,833,2882,2661.0,0829,0\n328862,844400,1271,2882,,1111,2\n"
        },
        [("328862", "323294", 829), ("328862", "844400", 1111)],
        {"item_id": "323294", "categories": ["833"], "brand": "2661.0"},
    ),
    "gowalla": (
        {
            "loc-gowalla_totalCheckins.txt.gz": "0\t2010-10-19T23:55:27Z\t30.23\t-97.79\t22847\n"
            "0\t2010-10-18T22:17:43Z\t30.26\t-97.74\t420315\n"
        },
        [("0", "420315", 1287440263), ("0", "22847", 1287532527)],
        {"item_id": "420315"},
    ),
    "yoochoose": (
        {
            "yoochoose-clicks.dat": "1,2014-04-07T10:51:09.277Z,214536502,0\n"
            "1,2014-04-07T10:54:09.868Z,214536500,S\n"
        },
        [("1", "214536502", 1396867869277), ("1", "214536500", 1396868049868)],
        {"item_id": "214536502"},
    ),
    "microlens": (
        {
            "MicroLens-100k_pairs.csv": "user,item,timestamp\n1,18,1660000000000\n"
            "1,19,1660000001000\n",
            "MicroLens-100k_title_en.csv": '18,"Cats, dogs"\n19,Birds\n',
        },
        [("1", "18", 1660000000000), ("1", "19", 1660000001000)],
        {"item_id": "18", "title": "Cats, dogs"},
    ),
    "retailrocket": (
        {
            "events.csv": "timestamp,visitorid,event,itemid,transactionid\n"
            "1433221332117,257597,view,355908,\n1433221332118,257597,transaction,9,77\n"
        },
        [("257597", "355908", 1433221332117), ("257597", "9", 1433221332118)],
        {"item_id": "355908"},
    ),
}


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_a_preset_reads_what_looks_like_its_files(tmp_path, name):
    files, rows, item = LOOK_ALIKES[name]
    paths = []
    for file, text in files.items():
        data = text.encode()
        packed = gzip.compress(data, mtime=0) if file.endswith(".gz") else data
        paths.append(write(tmp_path / file, packed))
    plan = plan_table(*paths, name=name)
    prepare_table(plan, tmp_path / "out", options=ALL)
    frame, items, description = made(tmp_path / "out")
    assert frame.rows() == rows
    assert items[0] == item
    assert description["source"] == name
    assert set(LOOK_ALIKES) | {"table"} == set(PRESETS)


def test_events_can_be_chosen(tmp_path):
    path = write(tmp_path / "UserBehavior.csv", "1,2,3,pv,1511544070\n1,4,3,buy,1511561733\n")
    options = TableOptions(only_events=("buy",))
    plan = plan_table(path, name="taobao", options=options)
    prepared = prepare_table(plan, tmp_path / "out", options=ALL)
    assert made(tmp_path / "out")[0]["item_id"].to_list() == ["4"]
    assert "events: 'buy' 1, 'pv' 1; 1 left out (--only-events" in prepared.notes[1]


HEADER = "user,item,time,quantity\n"


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("a,b\n1,2\n", {}, "no column is known to be the user, so --user must name it; the columns "
         "are 'a', 'b'"),
        ("user,client,item,time\n1,2,3,4\n", {}, "'user' or 'client' could be the user: --user "
         "names the column"),
        (HEADER + "u,i,5,1\n", {"columns": {"time": ("when",)}}, "has no column 'when', which "
         "--time names; it has 'user', 'item'"),
        ("user;item,time\n1;2,3\n", {}, "could be separated by ',' or ';': --separator says"),
        ("user item time\n1 2 3\n", {}, "no comma, semicolon, tab or bar .* by --separator"),
        ("user,item,time\nu,i,03/04/2025\n", {}, "may have the day or the month first, as in "
         "'03/04/2025': --time-format"),
        ("user,item,time\nu,i,soon\n", {}, "holds no times that are known, such as 'soon': "
         "--time-format"),
        ("user,item,time\nu,i,1700000000\nu,i,1700000000000\n", {}, "times of several units .* "
         "--time-unit says"),
        (HEADER + "u,i,2025-01-01,1\nu,i,2025-02-30,1\n", {}, "line 3: time must be a time that "
         "exists, got '2025-02-30'"),
        (HEADER + "u,i,2025-01-01T10:00,1\nu,i,2025-01-01T10:00:00.5,1\n", {"time_unit": "s"},
         "line 3: time must be a time of whole seconds .*: --time-unit keeps finer ones"),
        (HEADER + "u,i,2025-03-30 02:30,1\n", {"timezone": "Europe/Berlin"}, "line 2: time must be "
         "a time that exists, .* clocks pass over that hour in Europe/Berlin"),
        (HEADER + 'u,i,5,1\nu,i,5,"1,5"\n', {"decimal": "."}, "line 3: quantity must be a number "
         "with a decimal point, got '1,5': --decimal ',' reads it"),
        (HEADER + "u,i,5,1.5\n", {"quantity": "repeat"}, "line 2: quantity must be a whole number "
         "of at most 1,000 to be repeated, got 1.5: --quantity weight"),
        (HEADER + "u,i,5,\n", {}, "line 2: quantity must be a number .*, got ''"),
        (HEADER + "u,i,5,-1\n", {}, "holds no interactions: of 1 lines 1 are returns"),
        (HEADER + "u,i,5\n", {}, "line 2: 3 fields, but the header names 4"),
        ("user,user,item\n1,2,3\n", {}, "line 1: column 'user' is named twice"),
        ("user,item,time\rx,y,5\r", {}, "carriage returns alone"),
        (HEADER + "u,i,5,1\n", {"only_events": ("buy",)}, "only_events must not be given"),
        (HEADER + "u,i,5,1\n", {"split_categories": ">"}, "split_categories must not be given"),
        (HEADER + "u,i,5,1\n", {"unknown_items": "keep"}, "unknown_items must not be given: there "
         "is no catalogue"),
        (HEADER + "u,i,5,1\n", {"timezone": "Berlin"}, "timezone must be one such as Europe"),
        (HEADER + "u,i,1700000000,1\n", {"timezone": "UTC"}, "timezone must not be given"),
        (HEADER + "u,i,5,1\n", {"time_format": "%H:%M"}, "time_format must name year, month and"),
        (HEADER + "u,i,5,1\n", {"encoding": "klingon"}, "encoding must be one such as utf-8"),
        ("user,item,time\nu,i,5\n", {"decimal": ","}, "decimal must not be given: no column holds"),
        ("user,item,time,x\nu,i,5,1\n", {"columns": {"rating": ("x",)}}, "rating must not be named "
         "without min_rating"),
        ("user,item,time\n", {}, "holds a header and no line"),
        (HEADER + "u,i,5,1\n", {"columns": {"title": ("name",)}}, "no column 'name' .* --title"),
    ],
)  # fmt: skip
def test_each_refusal_says_what_to_do(tmp_path, text, options, words):
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(ValueError, match=words):
        prepare_table(
            plan_table(path, options=TableOptions(**options)), tmp_path / "out", options=ALL
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.csv", b"PK\x03\x04x", "is an Excel file or a ZIP archive: call it .xlsx"),
        ("a.csv", b"PAR1x", "is a parquet file: call it .parquet"),
        ("a.csv", b"\x1f\x8bx", "is packed by gzip: call it .gz"),
        ("a.doc", b"x", "must end in one of .csv, "),
        ("a.csv", "user,item,time\nu,i,5\n".encode("utf-16-le"), "--encoding utf-16-le reads"),
        ("a.csv", "user,item,time\nu,i,5\n".encode("utf-32"), "is UTF-32, which is not read"),
        ("a.csv", b"user,item,time\n\x81,i,5\n", "neither UTF-8 nor Windows-1252: --encoding"),
        (
            "a.csv",
            "user,item,time\nüöä,i,5\n".encode() + b"\xfc,i,5\n",
            "line 3: the text is not UTF-8: byte 0xfc",
        ),
        ("a.jsonl", b'[{"user": 1}]', r"`jq -c '.\[\]'` makes that of a list"),
        ("a.csv.zst", b"\x28\xb5\x2f\xfdx", "must be a whole Zstandard file"),
        ("a.parquet.gz", b"x", "is packed twice: unpack it"),
        ("a.parquet", b"x", "cannot be read as parquet"),
        ("a.csv", b"", "is empty"),
    ],
)
def test_files_that_are_something_else_are_refused(tmp_path, name, data, words):
    path = write(tmp_path / name, data)
    with pytest.raises(DataError, match=words):
        prepare_table(plan_table(path), tmp_path / "out", options=ALL)


def test_items_that_do_not_match_are_said(tmp_path):
    orders = write(tmp_path / "o.csv", "user,item,time\nu,12,5\nu,13,6\n")
    items = write(tmp_path / "i.csv", "item,title\n0012,a\n0014,b\n")
    with pytest.raises(DataError, match="of 2 lines 2 are of items that the catalogue lacks, such"):
        prepare_table(plan_table(orders, items), tmp_path / "out", options=ALL)
    options = TableOptions(unknown_items="refuse")
    with pytest.raises(DataError, match="line 2: item '12' is not in the catalogue: --unknown-it"):
        prepare_table(plan_table(orders, items, options=options), tmp_path / "out", options=ALL)
    options = TableOptions(unknown_items="keep")
    prepared = prepare_table(
        plan_table(orders, items, options=options), tmp_path / "out", options=ALL
    )
    assert any("1 of them differ from one of its ids in leading" in note for note in prepared.notes)
    write(items, "item,title\n12,a\n12,b\n")
    with pytest.raises(DataError, match="line 3: item '12' is that of line 2, but is described"):
        prepare_table(plan_table(orders, items), tmp_path / "other", options=ALL)


def test_the_decimal_sign_and_thousands(tmp_path):
    for cells, expected in (
        (("1.250,5", "2", "3,5"), [1250.5, 2.0, 3.5]),
        (("1.25", "2", "3.5"), [1.25, 2.0, 3.5]),
    ):
        rows = [("u", f"i{place}", 5, cell) for place, cell in enumerate(cells)]
        path = write(tmp_path / "a.csv", delimited(("user", "item", "time", "qty"), rows))
        prepare_table(plan_table(path), tmp_path / "out", options=ALL, overwrite=True)
        assert made(tmp_path / "out")[0]["weight"].to_list() == expected


def test_signs_are_seen_in_every_combination(tmp_path):
    rows = [(f"ü{place}", f'a"b{place}', "2025-01-02", "1,5") for place in range(3)]
    for separator, encoding in product(";\t|", ("utf-8", "utf-8-sig", "utf-16", "cp1252")):
        text = delimited(("Kunde", "Artikelnr", "Datum", "Menge"), rows, separator)
        path = write(tmp_path / "a.csv", text.encode(encoding))
        plan = plan_table(path)
        assert plan.orders.rows == tuple(rows)
        assert plan.orders.text.startswith(separator.replace("\t", "tab") + " separated")


@pytest.fixture
def evalrec(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["evalrec", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


def test_the_command_shows_columns_before_it_writes(evalrec, shop, tmp_path):
    out = tmp_path / "out"
    arguments = ["prepare", "table", *shop, "--out", out, "--split-categories", " > "]
    code, stdout, stderr = evalrec(*arguments)
    assert code == 0, stderr
    assert "; separated, UTF-8 with BOM, decimal comma" in " ".join(stdout.split())
    assert "Kunden-Nr." in stdout
    assert "not used" in stdout
    assert stdout.index("0007  0008  0009") < stdout.index("wrote")
    assert "users of 2 or more" in stdout
    code, stdout, stderr = evalrec(*arguments, "--force", "--user", "Kunde")
    assert (code, stderr.count("\n")) == (1, 1)
    assert "has no column 'Kunde', which --user names" in stderr
    code, _, stderr = evalrec("prepare", "native", tmp_path, "--out", out, "--user", "x")
    assert code == 2
    assert "not for native" in stderr
    code, _, stderr = evalrec(*arguments, "--force", "--k-core", 0)
    assert (code, stderr) == (1, "evalrec: k_core must be at least 1, got 0\n")
    code, _, stderr = evalrec("prepare", "table", *shop, shop[0], "--out", out)
    assert code == 2
    assert "must be ORDERS and perhaps CATALOGUE" in stderr


def test_other_readers_name_what_reads_the_file(tmp_path):
    from evalrec import read_interactions

    path = write(tmp_path / "interactions.csv", "user_id;item_id;timestamp\nu;i;5\n")
    with pytest.raises(DataError, match="is separated by ';': `evalrec prepare table inter"):
        read_interactions(path)
    write(path, "user_id,item_id,timestamp\nu,i,2025-01-02T10:00\n")
    with pytest.raises(
        DataError, match=r"line 2: .* got '2025-.*: `evalrec prepare table` reads t"
    ):
        read_interactions(path)
