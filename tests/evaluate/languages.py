"""One shop in six languages: the same items and the same purchases, only the titles are written otherwise.

`python -m tests.evaluate.languages` prints Recall of "BM25 on the history" in each, as the table of RESULTS.md has it.
"""

import contextlib
import csv
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from calrec.config import DataConfig, RetrieveConfig, TextConfig
from calrec.evaluate.baselines.named import baselines
from calrec.evaluate.metrics import Scores, recall
from calrec.evaluate.users import load_judged
from calrec.ingest.step import ingest
from calrec.model.loading import load_users
from calrec.retrieve.catalogue import load_catalogue
from calrec.textify.step import textify

USERS, LENGTH = 600, 8
DEPTHS = (10, 20)

# language → brands, kinds, colours; and a title as the language writes it.
WORDS = {
    "English": (
        "Sakura Kinokuniya Himmel Aurora Delphin Polaris",
        "rice cooker|winter coat|running shoes|kitchen knife|school bag|table lamp|hand cream|cotton towel|green tea|"
        "picture book",
        "red white black green",
        "{brand} {kind} {colour}",
    ),
    "Chinese": (
        "樱花 纪伊 天空 极光 海豚 北极星",
        "电饭锅|羽绒服|跑步鞋|菜刀|书包|台灯|护手霜|毛巾|绿茶|绘本",
        "红色 白色 黑色 绿色",
        "{brand}{kind}{colour}",
    ),
    "Japanese": (
        "さくら 紀伊國屋 ヒンメル オーロラ イルカ 北極星",
        "炊飯器|ダウンコート|運動靴|包丁|ランドセル|卓上ランプ|ハンドクリーム|綿タオル|緑茶|絵本",
        "赤 白 黒 緑",
        "{brand}{kind}{colour}",
    ),
    "Thai": (
        "ซากุระ คิโนะ ฟ้าใส ออโรรา โลมา ดาวเหนือ",
        "หม้อหุงข้าว|เสื้อกันหนาว|รองเท้าวิ่ง|มีดทำครัว|กระเป๋านักเรียน|โคมไฟตั้งโต๊ะ|ครีมทามือ|ผ้าขนหนู|ชาเขียว|หนังสือภาพ",
        "สีแดง สีขาว สีดำ สีเขียว",
        "{kind}{brand}{colour}",
    ),
    "Hindi": (
        "सकुरा किनोकुनिया आसमान औरोरा डॉल्फ़िन ध्रुवतारा",
        "चावल कुकर|सर्दी कोट|दौड़ जूते|रसोई चाकू|स्कूल बस्ता|मेज़ लैंप|हाथ क्रीम|सूती तौलिया|हरी चाय|चित्र पुस्तक",
        "लाल सफ़ेद काला हरा",
        "{brand} {kind} {colour}",
    ),
    "Arabic with vowels": (
        "سَاكُورَا كِينُو سَمَاء شَفَق دُلْفِين قُطْب",
        "قِدْر أَرُزّ|مِعْطَف شِتَاء|حِذَاء جَرْي|سِكِّين مَطْبَخ|حَقِيبَة مَدْرَسَة|مِصْبَاح طَاوِلَة|كِرِيم يَدَيْن|مِنْشَفَة قُطْن|شَاي أَخْضَر|كِتَاب صُوَر",
        "أَحْمَر أَبْيَض أَسْوَد أَخْضَر",
        "{kind} {brand} {colour}",
    ),
}


def titles(language: str) -> dict[str, str]:
    """Title of each item: brand × kind × colour."""
    brands, kinds, colours, form = WORDS[language]
    return {
        f"i{b}{k}{c}": form.format(brand=brand, kind=kind, colour=colour)
        for b, brand in enumerate(brands.split())
        for k, kind in enumerate(kinds.split("|"))
        for c, colour in enumerate(colours.split())
    }


def histories() -> list[list[str]]:
    """Purchases: a user keeps to two brands and to two kinds, and mostly to one colour."""
    rng, found = np.random.default_rng(0), []
    for _ in range(USERS):
        brands, kinds, colour = rng.choice(6, 2, replace=False), rng.choice(10, 2, replace=False), rng.integers(4)
        found.append(
            [
                f"i{rng.choice(brands)}{rng.choice(kinds)}{colour if rng.random() < 0.7 else rng.integers(4)}"
                for _ in range(LENGTH)
            ]
        )
    return found


def write(folder: Path, language: str) -> Path:
    """items.csv and events.csv of a language."""
    folder.mkdir(parents=True)
    events = [
        (f"u{user}", item, 1_600_000_000 + 60 * (user * LENGTH + at))
        for user, items in enumerate(histories())
        for at, item in enumerate(items)
    ]
    items = [("item_id", "title"), *titles(language).items()]
    tables = {"items": items, "events": [("user_id", "item_id", "timestamp"), *events]}
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)
    return folder


def recalls(source: Path, out: Path) -> list[float]:
    """Recall of "BM25 on the history" at DEPTHS, after the real steps, on the last item of each user."""
    ingest("shop", str(source), out / "log", DataConfig(events="events.csv", items="items.csv"))
    textify([out / "log"], out / "texts", TextConfig())
    catalogue, users = load_catalogue(out / "texts", "shop"), load_users(out / "texts", ["shop"])
    tested = [user for user, at in zip(users.user_id, users.test_at.tolist(), strict=True) if at >= 1]
    its = load_judged(users, pa.array(tested), catalogue, "test", out)
    ends = users.counted_until("test").tolist()
    counted = [items[:end].astype(np.int64) for items, end in zip(users.items, ends, strict=True)]
    rank = baselines(["bm25_history"], counted, catalogue, RetrieveConfig(k=max(DEPTHS)), seed=0)["bm25_history"]
    scores = Scores(its.target, catalogue, max(DEPTHS))
    rows = [row.astype(np.int64) for row in its.histories.rows()]
    scores.add(np.arange(len(its)), rank(rows, [frozenset()] * len(its)))
    return [float(recall(scores.rank, k).mean()) for k in DEPTHS]


def table() -> dict[str, list[float]]:
    """Language → Recall at DEPTHS."""
    with tempfile.TemporaryDirectory() as root, contextlib.redirect_stdout(io.StringIO()):
        return {name: recalls(write(Path(root) / name / "raw", name), Path(root) / name) for name in WORDS}


if __name__ == "__main__":
    for language, values in table().items():
        sys.stdout.write(f"| {language} | {' | '.join(f'{value:.3f}' for value in values)} |\n")
