"""results.json holds results of any metrics, and a comparison shows them."""

from __future__ import annotations

from pathlib import Path

from recviz.probes.result import Accuracy, Result
from recviz.reports.compare import tables_of, terminal_table, write_report
from recviz.runs.folder import RunFolder
from recviz.runs.results import add_result, read_results
from recviz.runs.rows import read_rows


def test_a_result_of_other_metrics_is_kept_read_and_compared(tmp_path: Path) -> None:
    path = RunFolder(tmp_path).results
    recall = Accuracy.of(0.5, 100)
    for weights, precision in (("a", 0.25), ("b", 0.75)):
        result = Result({"mAP": precision, "recall": recall}, "", {}, {"training": {"queries": 10}})
        add_result(path, result, {"protocol": "retrieval", "weights": weights, "classes": ["x", "y"]})
    first, second = read_results(path)
    assert first.metrics == {"mAP": 0.25, "recall": recall}
    assert first.group == second.group
    assert "retrieval" in first.group.title
    assert "queries 10" in first.group.title
    runs = read_rows(path)
    tables = tables_of(runs)
    write_report(runs, tables, tmp_path / "report.html")
    shown = terminal_table(tables[0], 200)
    assert "mAP" in shown
    assert "0.75" in shown
    assert "50.0% (40.4% to 59.6%)" in shown
    assert "| mAP |" in (tmp_path / "report.md").read_text()
