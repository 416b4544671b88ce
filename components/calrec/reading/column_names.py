"""Usual names of columns, in lower case without separators: what the columns of strangers' files are called."""

from collections.abc import Mapping

# Of each role; the first one that is there, and that fits, wins. English first, then other languages.
USUAL: Mapping[str, tuple[str, ...]] = {
    "user": (
        "userid", "customerid", "reviewerid", "visitorid", "memberid", "clientid", "householdid", "accountid",
        "buyerid", "shopperid", "personid", "playerid", "userpseudoid", "householdkey", "customeremail", "useremail",
        "uid", "user", "customer", "visitor", "member", "client", "household", "account", "buyer", "username",
        "kundennummer", "kundennr", "kundenid", "kunde", "codeclient", "cliente", "idcliente", "klant", "klient",
        "idklienta", "klientid", "müşteriid",
        "müşterino", "müşteri", "musteri", "kullanıcıid", "kullanıcı", "kullanici", "идпользователя", "пользователь",
        "покупатель", "клиент", "用户id", "用户", "会员id", "顧客id", "顧客番号", "ユーザーid", "sessionid",
        "session",
    ),
    "item": (
        "itemid", "parentasin", "asin", "productid", "movieid", "stockcode", "articleid", "sku", "productcode",
        "itemcode", "bookid", "trackid", "songid", "gameid", "newsid", "courseid", "recipeid", "offerid", "goodsid",
        "contentid", "videoid", "businessid", "poiid", "isbn", "ean", "upc", "iid", "item", "product", "article",
        "movie", "book", "song", "track", "artikelnummer", "artikelnr", "artikelid", "produktid", "produktnummer",
        "artikel", "codeproduit", "codearticle", "reference", "produit", "idproducto", "codigoproducto", "producto",
        "idproduto", "produto", "idproduktu", "produkt", "ürünkodu",
        "ürünid", "ürünno", "ürün", "urun", "артикул", "товар", "商品id", "商品编号", "商品番号", "商品コード", "id",
    ),
    "time": (
        "timestamp", "unixreviewtime", "time", "datetime", "eventtime", "invoicedate", "orderdate", "purchasedate",
        "date", "ts", "createdat", "orderedat", "purchasedat", "dateadded", "tdat", "zeitstempel", "bestelldatum",
        "datum", "datecommande", "fecha", "data", "tarih", "дата", "时间", "日期", "日時", "購入日",
    ),
    "weight": (
        "rating", "overall", "quantity", "qty", "qtyordered", "weight", "score", "stars", "menge", "anzahl",
        "quantite", "quantité", "cantidad", "quantidade", "aantal", "ilość", "ilosc", "adet", "miktar", "количество",
        "数量",
    ),
    "title": (
        "title", "producttitle", "itemtitle", "movietitle", "booktitle", "productname", "prodname", "itemname",
        "articlename", "lineitemname", "artikelbezeichnung", "bezeichnung", "artikelname", "produktname", "titel",
        "libelle", "libellé", "designation", "désignation", "titre", "nombreproducto", "titulo", "título", "nazwa",
        "nazwaproduktu", "ürünadı", "urunadi", "название", "наименование", "商品名", "商品名称", "标题", "name",
        "product", "item", "description",
        "productdescription", "itemdescription", "proddesc",
    ),
    "category": (
        "category", "categories", "genres", "genre", "class", "maincategory", "maincat", "categorycode",
        "categoryname", "department", "productcategory", "productgroupname", "producttype", "subcategory",
        "kategorie", "warengruppe", "categorie", "catégorie", "categoria", "categoría", "kategoria", "kategori",
        "категория", "类别", "分类", "カテゴリ",
    ),
    "brand": (
        "brand", "brandname", "store", "manufacturer", "vendor", "publisher", "authors", "author", "marke",
        "hersteller", "marque", "marca", "marka", "бренд", "品牌", "ブランド",
    ),
    "price": (
        "price", "unitprice", "saleprice", "itemprice", "productprice", "lineitemprice", "preis", "einzelpreis",
        "prix", "precio", "preco", "preço", "prezzo", "prijs", "cena", "fiyat", "birimfiyat", "цена", "价格", "価格",
    ),
}  # fmt: skip
# Names that are taken for a title only where there is no better one, and never a rival.
ROUGH = frozenset((
    "description", "item", "itemdescription", "name", "proddesc", "product", "productdescription",
))  # fmt: skip
# Columns that tell kinds of events apart, of which often only one counts.
KINDS = (
    "event", "eventtype", "eventname", "behavior", "behaviour", "behaviortype", "action", "actiontype", "status",
    "orderstatus", "financialstatus", "interactiontype",
)  # fmt: skip
