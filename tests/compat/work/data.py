"""Numbers, tables, pictures and models."""

import typing

type Json = typing.Any


def use_numpy() -> Json:
    """Linear algebra, FFT, random numbers, sorting."""
    import numpy as np

    matrix = np.random.default_rng(5).random((60, 60))
    inverse = np.linalg.inv(matrix)
    spectrum = np.abs(np.fft.rfft(np.sin(np.arange(64))))
    return [
        bool(np.allclose(matrix @ inverse, np.eye(60))),
        int(spectrum.argmax()),
        np.sort(np.array(["b", "a"])).tolist(),
    ]


def use_pandas() -> Json:
    """Groups, joins, reads and writes CSV, handles time zones."""
    import io

    import pandas as pd

    frame = pd.DataFrame({"k": list("abab") * 50, "v": range(200)})
    text = frame.groupby("k").v.sum().to_csv()
    days = pd.date_range("2026-01-01", periods=40, tz="Europe/Berlin").tz_convert("UTC")
    joined = frame.merge(pd.read_csv(io.StringIO(text)), on="k")
    return [text, str(days[-1]), len(joined)]


def use_polars() -> Json:
    """Groups lazily, with a function in Python that its threads call."""
    import polars as pl

    frame = pl.DataFrame({"k": ["a", "b"] * 500, "v": range(1000)}).lazy()
    found = (
        frame.with_columns(
            pl.col("v").map_batches(lambda s: s * 2, return_dtype=pl.Int64).alias("w")
        )
        .group_by("k")
        .agg(pl.col("w").sum())
        .sort("k")
        .collect()
    )
    return found.rows()


def use_pyarrow() -> Json:
    """Computes over a table; writes and reads Parquet and JSON lines."""
    import io

    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pa.table({"n": list(range(500)), "s": ["x"] * 500})
    file = io.BytesIO()
    pq.write_table(table, file)
    file.seek(0)
    return [pc.sum(pq.read_table(file)["n"]).as_py(), table.filter(pc.field("n") < 7).num_rows]


def use_scipy() -> Json:
    """Solves, minimises, interpolates; sparse matrices."""
    import numpy as np
    from scipy import integrate, interpolate, optimize, sparse, stats
    from scipy.sparse.linalg import spsolve

    matrix = sparse.diags([2.0, -1.0, -1.0], [0, -1, 1], shape=(50, 50), format="csc")
    lowest = optimize.minimize(lambda x: (x[0] - 1) ** 2 + x[1] ** 2, [5, 5]).x
    spline = interpolate.CubicSpline([0, 1, 2, 3], [0, 1, 8, 27])
    return [
        round(float(spsolve(matrix, np.ones(50)).max()), 6),
        [round(abs(float(x)), 3) for x in lowest],
        round(integrate.quad(np.sin, 0, np.pi)[0], 6),
        round(float(spline(1.5)), 3),
        round(float(stats.norm.cdf(1)), 6),
    ]


def use_scikit_learn() -> Json:
    """Fits a forest and a linear model; clusters."""
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(5).random((120, 4))
    kinds = (rows[:, 0] > 0.5).astype(int)
    forest = RandomForestClassifier(5, random_state=5).fit(rows, kinds)
    return [
        forest.predict(rows[:5]).tolist(),
        LogisticRegression().fit(rows, kinds).score(rows, kinds) > 0.9,
        KMeans(2, n_init=1, random_state=5).fit(rows).n_iter_ > 0,
    ]


def use_matplotlib() -> Json:
    """Draws a chart as a PNG."""
    import io

    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 2))
    axes = figure.add_subplot()
    axes.plot([1, 2, 3], [1, 4, 9], label="squares")
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()[:8].hex()


def use_kiwisolver() -> Json:
    """Solves constraints."""
    import kiwisolver

    x, solver = kiwisolver.Variable("x"), kiwisolver.Solver()
    solver.addConstraint(x >= 10)
    solver.addConstraint((x == 5) | "weak")
    solver.updateVariables()
    return x.value()


def use_pillow() -> Json:
    """Draws, resizes, filters; writes and reads PNG, JPEG and WebP."""
    import io

    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    image = Image.new("RGB", (120, 80), "white")
    ImageDraw.Draw(image).text((5, 5), "text", fill="red", font=ImageFont.load_default(20))
    sizes = []
    for kind in ("PNG", "JPEG", "WEBP"):
        file = io.BytesIO()
        image.resize((60, 40)).filter(ImageFilter.BLUR).save(file, kind)
        file.seek(0)
        sizes.append([kind, Image.open(file).convert("L").size])
    return sizes


def use_opencv_python_headless() -> Json:
    """Finds edges and contours; encodes and decodes."""
    import cv2
    import numpy as np

    image = np.zeros((80, 80), np.uint8)
    cv2.rectangle(image, (20, 20), (60, 60), 255, -1)
    contours, _ = cv2.findContours(cv2.Canny(image, 50, 150), 0, 2)
    ok, data = cv2.imencode(".png", image)
    return [len(contours), ok, int(cv2.imdecode(data, 0).sum())]


def use_shapely() -> Json:
    """Intersects, buffers and prepares geometries."""
    import shapely
    from shapely.geometry import Point, box

    circle = Point(0, 0).buffer(1)
    tree = shapely.STRtree([box(n, 0, n + 1, 1) for n in range(50)])
    return [
        round(circle.intersection(box(0, 0, 1, 1)).area, 4),
        len(tree.query(box(2.5, 0, 4.5, 1))),
    ]


def use_faiss_cpu() -> Json:
    """Searches vectors."""
    import faiss
    import numpy as np

    faiss.omp_set_num_threads(1)
    vectors = np.random.default_rng(5).random((200, 8), dtype="float32")
    index = faiss.IndexFlatL2(8)
    index.add(vectors)
    return index.search(vectors[:3], 1)[1].ravel().tolist()


def use_tiktoken() -> Json:
    """Splits and merges by a small vocabulary of its own."""
    import tiktoken

    ranks = {bytes([n]): n for n in range(256)} | {b"he": 256, b"ll": 257, b"hell": 258}
    encoding = tiktoken.Encoding(
        "small", pat_str=r"\w+|\s+", mergeable_ranks=ranks, special_tokens={"<end>": 300}
    )
    return [encoding.encode("hello hello"), encoding.decode([258, 111])]


def use_tokenizers() -> Json:
    """Trains a tokenizer and uses it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["?"], show_progress=False)
    tokenizer.train_from_iterator(["low lower lowest"] * 20, trainer)
    return tokenizer.encode("lowest low").tokens


def use_bitarray() -> Json:
    """Sets, counts and searches bits."""
    from bitarray import bitarray

    bits = bitarray("0110" * 100)
    return [bits.count(), bits.find(bitarray("0011")), (~bits).to01()[:8]]


def use_pyroaring() -> Json:
    """Joins compressed sets of numbers."""
    from pyroaring import BitMap

    return [
        len(BitMap(range(1000)) & BitMap(range(500, 2000))),
        len(BitMap([1, 5]).serialize()) > 0,
    ]
