import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import van

pytest.importorskip("fastapi")

DOCS = Path(__file__).parents[2] / "docs" / "serve.md"
BACKBONE = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}


def test_the_documented_clients_get_answers(tmp_path):
    options = {"epochs": 1, "limit_batches": 1, "workers": 0, "quiet": True, "output": str(tmp_path / "run")}
    weights = str(van.train(data="digits", model_args=BACKBONE, **options).folder)
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    arguments = [sys.executable, "-m", "van", "serve", "--weights", weights, "--port", "0"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        address = re.search(r"http://\S+:\d+", line)[0]
        blocks = re.findall(r"```(python|sh)\n(.*?)```", DOCS.read_text(), re.DOTALL)
        assert {language for language, _ in blocks} == {"python", "sh"}
        for language, code in blocks:
            code = code.replace("http://127.0.0.1:8000", address)
            if language == "sh" and not shutil.which("curl"):
                continue
            run = [sys.executable, "-c", code] if language == "python" else ["sh", "-ec", code]
            done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert "probabilities" in done.stdout
    finally:
        process.kill()
        process.communicate()
