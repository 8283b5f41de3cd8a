"""A replica's metrics, as Prometheus reads them."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> Samples:
    """Return name and labels to value; every series must be the only one, of a family with a type."""
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.type in ("gauge", "counter", "summary", "histogram"), family.name
        assert family.documentation, family.name
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, key
            samples[key] = sample.value
    return samples


def scrape(url: str) -> Samples:
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return parse(answer.read().decode())


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """Return the one series that has these labels, and perhaps more; None if there is none."""
    found = [
        number for (key, pairs), number in samples.items() if key == name and labels.items() <= dict(pairs).items()
    ]
    assert len(found) <= 1, (name, labels, found)
    return found[0] if found else None
