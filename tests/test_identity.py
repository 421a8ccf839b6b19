"""What a run is, and what differs between two starts."""

from dataclasses import dataclass, field

from datasets import Dataset

from opefo_trl.identity import differences, fingerprint, model_fingerprint, settings_of


@dataclass
class Settings:
    learning_rate: float = 1e-6
    max_steps: int = 10
    logging_steps: int = 1
    save_total_limit: int | None = None
    generation_kwargs: dict = field(default_factory=dict)


class Thing:
    pass


def test_settings_that_make_the_result():
    assert settings_of([Settings()]) == {"learning_rate": 1e-6, "generation_kwargs": {}}
    assert settings_of([None, Settings()]) == settings_of([Settings()])
    one, other = (settings_of([Settings(generation_kwargs={"thing": Thing()})]) for _ in range(2))
    assert one == other, "an object is no other one because it lies elsewhere"


def test_differences():
    before, now = settings_of([Settings()]), settings_of([Settings(learning_rate=5e-6, max_steps=20)])
    assert differences(before, now) == ["`learning_rate` was 1e-06 and is 5e-06"]
    assert differences(before, before) == []
    assert differences({"old": 1, "seed": 1}, {"seed": 1, "new": 2}) == [], "what one version alone knows"
    assert differences({"a": "x" * 100}, {"a": ""}) == [f"`a` was {'x' * 80}… and is "]


def test_fingerprint_of_data():
    rows = [{"prompt": str(i)} for i in range(5000)]
    dataset = Dataset.from_list(rows)
    assert fingerprint(dataset) == fingerprint(Dataset.from_list(rows))
    assert fingerprint(dataset) != fingerprint(Dataset.from_list(rows[::-1]))
    assert fingerprint(dataset) != fingerprint(dataset.select(range(4999)))
    assert fingerprint(dataset.to_iterable_dataset()) is None


def test_fingerprint_of_a_model(tmp_path):
    assert model_fingerprint("Qwen/Qwen2.5-Math-7B") == "Qwen/Qwen2.5-Math-7B"
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    first = model_fingerprint(str(tmp_path))
    assert first.startswith(f"{tmp_path.name} (weights ")
    (tmp_path / "model.safetensors").write_bytes(b"12346")
    assert model_fingerprint(str(tmp_path)) != first, "as many bytes, but others"
    moved = tmp_path / "moved" / tmp_path.name
    moved.mkdir(parents=True)
    (moved / "model.safetensors").write_bytes(b"12345")
    assert model_fingerprint(str(moved)) == first, "a folder may be moved"
