"""Stage dose: on which texts doses are found."""

import shutil
from dataclasses import replace

from steer_bench.experiment.run import open_run
from steer_bench.experiment.stages import dose
from steer_bench.vectors.arms import Arms


def test_doses_are_found_on_calibration_texts_and_these_are_scored_nowhere(small_run, tmp_path, monkeypatch):
    shutil.copytree(small_run, tmp_path / "run")
    run = open_run(str(tmp_path / "run"))
    path = run.folder.arms(run.targets[0])
    arms = Arms.load(path)
    replace(arms, card=arms.card.model_copy(update={"doses_inputs": ""})).save(path)  # so that they are found again
    used = []
    monkeypatch.setattr(dose, "find_doses", lambda _scorer, _sought, texts: used.extend(texts) or list(arms.card.doses))
    dose.dose_target(run, run.targets[0])
    protocol = run.data.protocol
    assert len(used) == run.experiment.dose.texts == 8
    assert used == list(protocol.calibration.values())
    assert not set(protocol.calibration) & set(protocol.neutral)
    assert not set(used) & set(protocol.neutral.values())
