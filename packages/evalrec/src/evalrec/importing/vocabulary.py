"""The vocabulary for columns: what a column can mean, and its usual names in nine languages.

Names are compared without case, accents, spaces and signs. A mark for a number or a key ("Nr",
"id", "code") may stand before or after the word: "Kunden-Nr.", "idCliente", "customer_id".
"""

from __future__ import annotations

import re
import unicodedata

ORDER_MEANINGS = ("user", "item", "time", "rating", "weight", "event")
TEXT_MEANINGS = ("title", "brand", "categories", "description", "image")
CATALOGUE_MEANINGS = ("item_id", *TEXT_MEANINGS)  # `item` is the id in orders
REQUIRED = ("user", "item", "time", "item_id")

_MARKS = (  # of a number or a key, before or after a word
    *("id", "ids", "nr", "no", "num", "number", "nummer", "numero", "numer", "code", "codigo"),
    *("codice", "kod", "key", "ref", "numerode", "iddel", "iddela", "codede", "codigode"),
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_USER = _words(
    "user username uid customer cust client buyer shopper visitor member account profile reviewer "
    "person kunde kunden kd nutzer benutzer besucher kaufer kaeufer utilisateur acheteur visiteur "
    "usuario cliente clientes comprador visitante utente acquirente visitatore gebruiker klant "
    "klanten bezoeker koper utilizador uzytkownik uzytkownika klient klienta nabywca kupujacy"
)
_SESSION = _words("session sitzung sitzungs sesion sessione sessie sessao sesja sesji")
_ITEM = _words(
    "item product products article artikel produkt produkts ware produit produits producto "
    "articulo prodotto articolo produto artigo towar towaru produktu movie film business book game "
    "song track video news location venue poi content"
)
_ITEM_KEY = _words("sku asin parentasin")
_BARCODE = _words("ean gtin upc isbn")
_TIME = _words(
    "timestamp time datetime date ts when unixtime unixtimestamp unixreviewtime reviewtime "
    "eventtime eventdate eventtimestamp orderdate ordertime orderedat orderdatetime purchasedate "
    "purchasetime purchasedat createdat created visittime clicktime datum zeit zeitstempel "
    "zeitpunkt datumzeit datumuhrzeit bestelldatum bestellzeit bestellzeitpunkt kaufdatum "
    "auftragsdatum rechnungsdatum bestelltam dateheure horodatage datecommande datedecommande "
    "datedelacommande dateachat datedachat fecha fechahora fechayhora fechapedido fechadepedido "
    "fechadelpedido fechacompra fechadecompra marcadetiempo data dataora dataeora dataordine "
    "datadellordine dataacquisto datadiacquisto tijd tijdstip besteldatum aankoopdatum datahora "
    "dataehora datapedido datadopedido datacompra datadacompra czas dataiczas datazamowienia "
    "datazakupu znacznikczasu"
)
_RATING = _words(
    "rating ratings score stars star overall bewertung sterne note puntuacion valoracion "
    "calificacion voto valutazione punteggio beoordeling waardering avaliacao nota ocena"
)
_WEIGHT = _words(
    "quantity qty units weight menge anzahl bestellmenge stuck stueck stuckzahl stueckzahl "
    "quantite qte cantidad cant unidades quantita qta aantal hoeveelheid quantidade qtd qtde ilosc"
)
_EVENT = _words(
    "event events eventtype eventname action actiontype behavior behaviour behaviortype "
    "behaviourtype ereignis aktion evenement evento accion azione gebeurtenis acao zdarzenie"
)
_BARE_KEY = _words("id nr no num nummer number numero numer code codigo codice kod key itemid")
_TITLE = _words(
    "title titel titre titulo titolo tytul name bezeichnung artikelbezeichnung artikelname "
    "produktbezeichnung produktname productname producttitle itemname itemtitle prodname appname "
    "nom nomduproduit libelle designation nombre nombredelproducto denominacion nome nomeprodotto "
    "nomedelprodotto denominazione naam productnaam artikelnaam omschrijvingkort nomedoproduto "
    "nomeproduto nazwa nazwaproduktu nazwatowaru"
)
_BRAND = _words("brand brandname marke markenname marque marca merk merknaam marka")
_MAKER = _words(
    "manufacturer vendor store publisher label hersteller fabricant fabricante produttore "
    "fabrikant producent"
)
_CATEGORIES = _words(
    "category categories categoryname categorypath kategorie kategorien kategoriepfad warengruppe "
    "produktgruppe produktkategorie rubrik categorie rubrique rayon categoria categorias genre "
    "genres genero generi kategoria kategorii kategorieproduktow"
)
_TAGS = _words("tags tag department producttype productgroup")
_DESCRIPTION = _words(
    "description desc longdescription productdescription beschreibung artikelbeschreibung "
    "produktbeschreibung langtext descriptif descripcion descrizione omschrijving beschrijving "
    "descricao opis opisproduktu detaildesc"
)
_ABSTRACT = _words("abstract summary text kurztext shortdescription kurzbeschreibung")
_IMAGE = _words(
    "image imageurl imagepath imagelink imagefile img imgurl picture photo bild bildurl bilddatei "
    "bildpfad foto imagen urlimagen immagine afbeelding imagem obraz zdjecie"
)

# The tiers of each meaning; the first one that matches a column counts. Each is a set of words and
# whether a mark must stand beside the word, may, or must not.
_TIERS: dict[str, tuple[tuple[frozenset[str], bool], ...]] = {
    "user": ((_USER, True), (_USER, False), (_SESSION, True), (_SESSION, False)),
    "item": ((_ITEM, True), (_ITEM_KEY, False), (_BARCODE, False), (_ITEM, False)),
    "item_id": (
        *((_ITEM, True), (_ITEM_KEY, False), (_BARE_KEY, False), (_BARCODE, False)),
        (_ITEM, False),
    ),
    "time": ((_TIME, False),),
    "rating": ((_RATING, False),),
    "weight": ((_WEIGHT, False),),
    "event": ((_EVENT, False),),
    "title": ((_TITLE, False), (_ITEM, False)),
    "brand": ((_BRAND, False), (_MAKER, False)),
    "categories": ((_CATEGORIES, False), (_TAGS, False)),
    "description": ((_DESCRIPTION, False), (_ABSTRACT, False)),
    "image": ((_IMAGE, False),),
}


def plain(name: str) -> str:
    """A column's name without case, accents, spaces and signs: "Kunden-Nr." is "kundennr"."""
    decomposed = unicodedata.normalize("NFKD", name.replace("ł", "l").replace("Ł", "L").casefold())
    return "".join(sign for sign in decomposed if sign.isalnum())


def candidates(meaning: str, header: tuple[str, ...]) -> list[str]:
    """The columns that may have a meaning: those of the best tier that has any.

    Categories may be in several numbered columns, which count as one candidate in their order.
    """
    for words, marked in _TIERS[meaning]:
        names = [name for name in header if _is_called(plain(name), words, marked)]
        if names:
            return names
    if meaning == "categories":
        return [name for name in header if _level(name)]
    return []


def are_levels(names: list[str]) -> bool:
    """Whether several columns are numbered levels of categories, so that they belong together."""
    return len(names) > 1 and all(map(_level, names))


def _level(name: str) -> bool:
    word, digits = re.fullmatch(r"(.*?)(\d*)", plain(name), re.DOTALL).groups()  # type: ignore[union-attr]
    return bool(digits) and word in _CATEGORIES | {"cat", "kat"}


def _is_called(name: str, words: frozenset[str], marked: bool) -> bool:
    if not marked:
        return name in words
    return any(
        (name.endswith(mark) and name.removesuffix(mark) in words)
        or (name.startswith(mark) and name.removeprefix(mark) in words)
        for mark in _MARKS
    )
