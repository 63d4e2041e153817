"""Others on the items that the example `scale` has made: `python peers.py FOLDER [usearch] [vectors] [lancedb]`.

`usearch` is an HNSW graph over one pooled vector an item (the mean of its vectors), `vectors` one over all 32 of each item
(at most 20,000 items), `lancedb` its index over the same multivectors. Recall is counted twice: of the first ten items, and
of all candidates that came back, which is what comparing those exactly could reach at best.
Needs `pip install numpy usearch lancedb`.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

DIM, VECTORS, HITS, CANDIDATES = 256, 32, 10, 1000


class Made:
    """What the example left in its folder."""

    def __init__(self, folder: Path):
        known = json.loads((folder / "known.json").read_text())
        self.items, self.texts = known["items"], known["texts"]
        self.truth = [{item for _, item in best} for best in known["truth"]]
        self.queries = np.fromfile(folder / "queries.f16", np.float16).reshape(-1, VECTORS, DIM)
        self.pooled = np.memmap(folder / "pooled.f16", np.float16, "r").reshape(-1, DIM)
        every = folder / "vectors.f16"
        self.every = np.memmap(every, np.float16, "r").reshape(-1, VECTORS, DIM) if every.exists() else None

    def query(self, number):
        """A text is one vector, a picture all of them."""
        return self.queries[number, :1] if number < self.texts else self.queries[number]


def report(made, name, built, memory, search):
    """`search` takes a query's vectors and gives items, best first."""
    print(f"{name}: built in {built:.0f} s, {memory}")
    for kind, numbers in [
        ("text", range(made.texts)),
        ("picture", range(made.texts, len(made.queries))),
    ]:
        times, first, within = [], [], []
        for turn in range(3):
            for number in numbers:
                query = made.query(number)
                started = time.perf_counter()
                found = search(query)
                if turn:
                    times.append((time.perf_counter() - started) * 1e3)
                    continue
                truth = made.truth[number]
                first.append(len(truth & set(found[:HITS])) / len(truth))
                within.append(len(truth & set(found)) / len(truth))
        if times:
            p50, p99 = np.percentile(times, [50, 99])
            print(
                f"  {kind:<8} recall@{HITS} {np.mean(first):.4f}, within its candidates {np.mean(within):.4f}, "
                f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"
            )


def graph(vectors):
    """A usearch graph with its usual settings, and the seconds it took."""
    from usearch.index import Index

    index = Index(ndim=DIM, metric="ip", dtype="f16")
    started = time.perf_counter()
    for first in range(0, len(vectors), 65_536):
        batch = np.ascontiguousarray(vectors[first : first + 65_536])
        index.add(np.arange(first, first + len(batch)), batch, threads=2)
    return index, time.perf_counter() - started


def pooled(made):
    index, built = graph(made.pooled)

    def search(query):
        mean = query.astype(np.float32).mean(0)
        mean = (mean / np.linalg.norm(mean)).astype(np.float16)
        return [int(item) for item in index.search(mean, CANDIDATES, threads=1).keys]

    memory = f"{index.memory_usage / 2**20:.0f} MiB"
    report(made, "usearch, pooled vectors", built, memory, search)


def vectors(made):
    index, built = graph(made.every.reshape(-1, DIM))
    each = CANDIDATES // 2

    def search(query):
        best = {}
        for vector in query:
            found = index.search(vector, each if len(query) == 1 else 100, threads=1)
            nearest = {}
            for key, distance in zip(found.keys, found.distances):
                item = int(key) // VECTORS
                nearest[item] = max(nearest.get(item, -1.0), 1.0 - float(distance))
            for item, score in nearest.items():
                best[item] = best.get(item, 0.0) + score
        return sorted(best, key=best.get, reverse=True)

    memory = f"{index.memory_usage / 2**20:.0f} MiB"
    report(made, "usearch, all vectors", built, memory, search)


def lancedb(made):
    import lancedb as lance
    import pyarrow as arrow

    with __import__("tempfile").TemporaryDirectory() as folder:
        table = None
        started = time.perf_counter()
        kind = arrow.list_(arrow.list_(arrow.float16(), DIM))
        for first in range(0, made.items, 4096):
            batch = np.ascontiguousarray(made.every[first : first + 4096])
            inner = arrow.FixedSizeListArray.from_arrays(arrow.array(batch.reshape(-1)), DIM)
            offsets = arrow.array(np.arange(0, (len(batch) + 1) * VECTORS, VECTORS), arrow.int32())
            rows = arrow.table(
                {
                    "item": arrow.array(np.arange(first, first + len(batch))),
                    "vector": arrow.ListArray.from_arrays(offsets, inner).cast(kind),
                }
            )
            if table is None:
                table = lance.connect(folder).create_table("items", rows)
            else:
                table.add(rows)
        table.create_index(metric="cosine", vector_column_name="vector")
        built = time.perf_counter() - started
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())

        def search(query):
            query = query[0] if len(query) == 1 else query
            found = table.search(query.astype(np.float16)).limit(HITS).select(["item"])
            return found.to_arrow()["item"].to_pylist()

        memory = f"{size / made.items:.0f} bytes an item on the disk"
        report(made, f"lancedb {lance.__version__}, usual settings", built, memory, search)

        def wide(query):
            query = query[0] if len(query) == 1 else query
            found = table.search(query.astype(np.float16)).limit(HITS).nprobes(64).refine_factor(20)
            return found.select(["item"]).to_arrow()["item"].to_pylist()

        report(made, "lancedb, 64 probes, 20 times as many refined", built, memory, wide)


if __name__ == "__main__":
    peers = {"usearch": pooled, "vectors": vectors, "lancedb": lancedb}
    folder, *names = sys.argv[1:]
    for name in names or ["usearch"]:
        peers[name](Made(Path(folder)))
