"""Shards: a dict in parts that stay small."""

from dpsd.core.shards import PARTS, Shards

KEYS = [n.to_bytes(4, "big") for n in range(10_000)]


def filled() -> Shards[bytes, int]:
    shards = Shards[bytes, int]()
    for n, key in enumerate(KEYS):
        shards.add(key, n)
    return shards


def test_what_is_kept_is_found_and_counted() -> None:
    shards = filled()
    assert (len(shards), shards.get(KEYS[7]), shards.get(b"none")) == (10_000, 7, None)
    shards.remove(KEYS[7])
    assert (len(shards), shards.get(KEYS[7])) == (9_999, None)


def test_no_part_is_much_larger_than_the_others() -> None:
    sizes = [len(part) for part in filled().parts]
    assert len(sizes) == PARTS
    assert max(sizes) < 2 * len(KEYS) / PARTS


def test_all_are_gone_through_while_some_come_and_go() -> None:
    shards, seen = filled(), list[int]()
    for n in shards:
        seen.append(n)
        if n < len(KEYS) and n % 2:
            shards.remove(KEYS[n])
            shards.add(b"new" + KEYS[n], 10_000 + n)
    assert {n for n in seen if n < 10_000} == set(range(10_000))
    assert len(seen) == len(set(seen))
