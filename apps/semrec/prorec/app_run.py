"""A whole run of PRORec: every stage in order, then the metrics and the report."""

from __future__ import annotations

from evalrec import Report, read_report

from semrec.prorec.joined import joined
from semrec.prorec.report import BACKBONES, MODEL, Spaces, metrics, modality_spaces, write_page
from semrec.prorec.system import Pipeline
from semrec.shared.data import fit_and_test_floors, keep_items
from semrec.shared.run import write_json


def run_stages(pipeline: Pipeline) -> dict[str, Report]:
    """Goes through the stages, skipping those that are complete; writes metrics and report.

    Returns:
        Test reports: the model, the sequence models it grew from, the floors.
    """
    run, data, config = pipeline.run, pipeline.data, pipeline.config
    keep_items(run, data)
    semantic = pipeline.semantic
    floors = fit_and_test_floors(run, data, config.text.fields, config.evaluation.ks)
    name, source = BACKBONES[config.stage_one.backbone], config.codes.source
    final = pipeline.embeddings
    reports = {MODEL: pipeline.test()}
    if config.joining.any:
        reports[f"{MODEL}, joined"] = joined(pipeline)
    if source == "integrated":
        report = read_report(run.path / "stage_one/report.json")
        reports[f"stage I ({name}, ids and text)"] = report
    spaces: Spaces = {}
    if config.has_reference:
        collaborative = pipeline.reference["collaborative"]
        reports[f"{name}, ids alone"] = read_report(run.path / "reference/report.json")
        spaces = modality_spaces(semantic.cpu(), collaborative, final, source, config.seed)
    reports |= floors
    write_json(run.path / "metrics.json", metrics(run, data, config, reports, spaces))
    write_page(run, data, config, reports, spaces)
    return reports
