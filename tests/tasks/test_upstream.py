"""A checkout of the published benchmark, here one made up for the test: read, asked and scored as published."""

import json
import re
from pathlib import Path

import pytest

from dlm import tasks
from dlm.errors import SettingsError
from dlm.tasks import puzzles, rules, upstream
from dlm.tasks.lists import ListQuestion, judge_list
from dlm.tasks.reading import published_list

VERDICTS = json.loads((Path(__file__).parents[1] / "data/parallelbench/verdicts.json").read_text(encoding="utf-8"))
FOLDER = Path("dataset/parallel_bench/data/output/test")
X = ["Ann Ash", "Bo Birch", "Cy Cedar"]


def listed(items):
    return "[" + ", ".join(f'"{item}"' for item in items) + "]"


def question(given, answer, shot=None, mask=None):
    record = {"input": dict(given), "answer": answer, "metadata": {"length": 3}}
    if shot:
        record["input"]["icl_examples"] = [{"input": shot[0], "answer": shot[1], "metadata": {}}]
    if mask:
        record["output_format"] = listed(["[MASK]"] * mask)
    return record


OPEN = {"input": X, "example": listed(X[::-1])}
NEW = {"input": X, "word": "Di Dogwood", "example": listed(["Di Dogwood", *X])}
SWAP = {"input": X, "word": "Di Dogwood", "example": listed(["Di Dogwood", *X[1:]])}
GONE = {"input": X, "example": listed(X[1:])}
GRID = "1234\n3412\n2143\n4321"
TASKS = {
    "waiting_line/copy": ("list_match_score", "Copy:\\n{context}\n", {"context": listed(X)}, listed(X)),
    "waiting_line/sort": ("list_match_score", "Sort by last name: {context}", {"context": listed(X)}, listed(X)),
    "waiting_line/shuffle": ("list_shuffle_score", "Shuffle: {context}", {"context": listed(X)}, OPEN),
    "waiting_line/insert_random": ("list_random_insert_score", "Add {word}: {context}",
                                   {"context": listed(X), "word": "Di Dogwood"}, NEW),
    "waiting_line/replace_random": ("list_random_replace_score", "Swap in {word}: {context}",
                                    {"context": listed(X), "word": "Di Dogwood"}, SWAP),
    "waiting_line_n15/remove_random": ("list_random_remove_score", "Drop one: {context}", {"context": listed(X)}, GONE),
    "puzzles/latin_square_n4": ("latin_square_score", "A square of size {size} of {symbols}",
                                {"size": 4, "symbols": "[A, B, C, D]"},
                                {"symbols": list("ABCD"), "example": "A,B,C,D\nB,A,D,C\nC,D,A,B\nD,C,B,A"}),
    "puzzles/sudoku_n4_12": ("sudoku_score", "Fill:\\n{sudoku}\\n", {"sudoku": "1230\n3412\n2143\n4321"}, GRID),
    "text_writing/paraphrasing": ("paraphrase_score", "Again: {text}", {"text": "The cat sat on the old mat."},
                                  {"text": "The cat sat on the old mat.", "examples": ["A cat was on the mat."]}),
    "text_writing/summarization": ("summary_score", "Sum up: {text}", {"text": "A: Hi. B: Hello."},
                                   {"text": "A: Hi. B: Hello.", "summary": "A and B say hello."}),
    "text_writing/words_to_sentence_easy": ("sentence_to_words_score", "Use {words}.", {"words": "sun, sea"},
                                            {"words": ["sun", "sea"], "example": "The sunny sea is calm."}),
}  # fmt: skip


@pytest.fixture
def checkout(tmp_path):
    import yaml

    configs = {}
    for name, (metric, prompt, given, answer) in TASKS.items():
        group, leaf = name.split("/")
        folder = tmp_path / FOLDER / group
        folder.mkdir(parents=True, exist_ok=True)
        shot = (given, answer) if not group.startswith("text") else None
        record = question(given, answer, shot, mask=3 if leaf in ("copy", "shuffle") else None)
        (folder / f"{leaf}.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(record) + "\n")
        configs.setdefault(group, {})[name] = {"metric": metric, "prompt": prompt, "name": name, "seed": 1}
    for group, entries in configs.items():
        (tmp_path / FOLDER / group / "task_config.yaml").write_text(yaml.safe_dump(entries))
    return tmp_path


def opened(checkout, name):
    return tasks.open(f"upstream/{name}", dir=str(checkout), task=name)


@pytest.mark.parametrize("name", TASKS)
def test_every_kind_of_task_is_read_and_its_answer_scored(checkout, name):
    task = opened(checkout, name)
    assert (task.name, task.size) == (f"upstream/{name}", 2)
    instance = task.instance(1)
    assert instance.instance_id != task.instance(0).instance_id  # the same question again: it counts twice
    verdict = task.judge(instance, instance.target)
    if not name.startswith("text"):
        assert (verdict.score, verdict.strict, verdict.error) == (1.0, 1.0, None)
        assert [message["role"] for message in instance.messages] == ["user", "assistant", "user"]
        assert instance.messages[0]["content"] == instance.prompt  # the same template and, here, the same question
        assert instance.messages[1]["content"] == instance.target
    assert task.judge(instance, "").score == 0
    assert len(task.identity["data_sha256"]) == len(task.identity["config_sha256"]) == 64
    json.dumps([instance.meta, task.identity])


def test_prompts_are_filled_as_published(checkout):
    assert opened(checkout, "waiting_line/copy").instance(0).prompt == f"Copy:\n{listed(X)}\n"
    assert opened(checkout, "puzzles/sudoku_n4_12").instance(0).prompt == "Fill:\n1230\n3412\n2143\n4321\n"


def test_canvases_are_as_published(checkout):
    canvases = {name: opened(checkout, name).canvas for name in TASKS}
    assert {name: canvas for name, canvas in canvases.items() if canvas != 64} == {
        **{name: 32 for name in TASKS if name.startswith("waiting_line/")},
        "waiting_line_n15/remove_random": 128,
    }


def test_masked_formats_become_templates(checkout):
    template = opened(checkout, "waiting_line/copy").instance(0).template
    assert template.pieces == ('["', '", "', '", "', '"]')
    assert template.items == tuple(X)
    assert opened(checkout, "waiting_line/sort").instance(0).template is None


def test_lists_are_scored_as_published(checkout):
    shuffle = opened(checkout, "waiting_line/shuffle")
    instance = shuffle.instance(0)
    assert shuffle.judge(instance, listed([X[1], X[0], X[2]])).score == 1
    assert shuffle.judge(instance, listed(X)).error == "unchanged"
    assert shuffle.judge(instance, listed(["Ann Birch", *X[1:]])).error == "chimera"
    insert = opened(checkout, "waiting_line/insert_random")
    assert insert.judge(insert.instance(0), listed([*X, "Di Dogwood"])).score == 1
    assert insert.judge(insert.instance(0), listed(X)).score == 0
    copy = opened(checkout, "waiting_line/copy")
    broken_lines = '["Ann Ash",\n"Bo Birch",\n"Cy Cedar"]'
    assert copy.judge(copy.instance(0), broken_lines).score == 0  # the published parser keeps the line ends
    assert copy.judge(copy.instance(0), listed(X).replace('"', "")).score == 1


def test_a_sudoku_must_equal_the_stored_grid(checkout):
    task = opened(checkout, "puzzles/sudoku_n4_12")
    instance = task.instance(0)
    assert task.judge(instance, GRID.replace("", " ").strip()).score == 1
    assert task.judge(instance, GRID.replace("", " ").strip()).strict == 0
    assert task.judge(instance, "1243\n3412\n2134\n4321").error == "invalid"


def test_words_count_wherever_their_letters_are(checkout):
    task = opened(checkout, "text_writing/words_to_sentence_easy")
    instance = task.instance(0)
    assert task.judge(instance, "The sunny sea is calm.").score == 1
    assert task.judge(instance, "The moon is calm.").score == 0
    assert "grammar_backend" in task.identity


def test_the_text_of_a_list_of_examples_is_read(checkout):
    path = checkout / FOLDER / "text_writing" / "paraphrasing.jsonl"
    record = json.loads(path.read_text().splitlines()[0])
    for text, target in (("['It\\'s one.', 'Two.']", "It's one."), ("One.", "One."), ("[", "["), ("[]", "")):
        record["answer"]["examples"] = text  # the published file has texts here
        path.write_text(json.dumps(record))
        assert opened(checkout, "text_writing/paraphrasing").instance(0).target == target


OWN = {  # the rules of our own tasks for the same questions
    "list_match_score": "copy",
    "list_shuffle_score": "shuffle",
    "list_random_insert_score": "insert_random",
    "list_random_remove_score": "remove_random",
    "list_random_replace_score": "replace_random",
}


def own_verdict(group, output):
    label = group["label"]
    if group["metric"] == "latin_square_score":
        return puzzles.judge_latin(label["symbols"], output)
    if group["metric"] == "sudoku_score":
        return puzzles.judge_sudoku(group["puzzle"], output)
    right = published_list(label if isinstance(label, str) else label["example"])
    x, w = (right, "") if isinstance(label, str) else (label["input"], label.get("word", ""))
    return judge_list(ListQuestion(OWN[group["metric"]], x, w, right), output)


@pytest.mark.parametrize("group", VERDICTS["graded"], ids=lambda group: group["metric"])
def test_answers_are_scored_as_the_published_scorer_scored_them(group):
    differences = []
    for verdict, outputs in group["answers"].items():
        for place, output in enumerate(outputs):
            judged = upstream.SCORERS[group["metric"]]({"answer": group["label"], "context": []}, output)
            assert f"{judged.score:.0f}{judged.strict:.0f}" == verdict, output
            assert (judged.error is None) == (judged.score == 1)
            own = own_verdict(group, output)
            if f"{own.score:.0f}{own.strict:.0f}" != verdict:
                differences.append([verdict, place, f"{own.score:.0f}{own.strict:.0f}"])
    assert differences == [known[:3] for known in group.get("ours", [])]
    assert {known[3] for known in group.get("ours", [])} <= set(VERDICTS["reasons"])


def test_every_known_difference_is_there_and_needed():
    assert {g["metric"] for g in VERDICTS["graded"]} == set(upstream.SCORERS) - set(upstream.TEXTS)
    assert set(OWN.values()) == {"copy", *rules.OPEN}
    assert {k[3] for g in VERDICTS["graded"] for k in g.get("ours", [])} == set(VERDICTS["reasons"])


@pytest.mark.parametrize("group", VERDICTS["texts"], ids=lambda group: group["metric"])
def test_the_content_of_texts_is_measured_as_published(group):
    judge, meta = upstream.SCORERS[group["metric"]], {"answer": group["label"]}
    names = {"sentence_to_words_score": ["inclusion_substring"], "summary_score": ["rouge1", "rouge2", "rougeL"],
             "paraphrase_score": ["one_minus_bleu"]}[group["metric"]]  # fmt: skip
    for output, figures in group["answers"].items():
        parts = judge(meta, output).parts
        assert [parts[name] for name in names] == pytest.approx(figures, abs=1e-9), output


@pytest.mark.parametrize("folder", upstream.FOLDERS[1:])
def test_the_later_layouts_are_read_too(checkout, folder):
    later = checkout / folder
    later.parent.mkdir(parents=True, exist_ok=True)
    (checkout / FOLDER).rename(later)
    assert opened(checkout, "waiting_line/copy").size == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"input": {"context": "[]"}', "line 2 is no question"),
        ("[1, 2]", "line 2"),
        ('{"input": {"context": "[]"}}', "'answer' is missing"),
        ('{"input": {}, "answer": "[]"}', "'context' is missing"),
        ('{"input": {"context": "[]"}, "answer": null}', "line 2"),
        ('{"input": {"context": "[]"}, "answer": 3}', "line 2"),
        ('{"input": {"context": "[]", "icl_examples": [{"input": {}}]}, "answer": "[]"}', "line 2"),
        ("\xff", "line 2"),
    ],
)
def test_a_bad_line_is_named(checkout, line, reason):
    path = checkout / FOLDER / "waiting_line" / "copy.jsonl"
    good = path.read_bytes().split(b"\n")[0]
    path.write_bytes(good + b"\n" + line.encode("latin-1") + b"\n")
    with pytest.raises(SettingsError, match=re.escape(str(path))) as error:
        opened(checkout, "waiting_line/copy")
    assert "line 2" in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("waiting_line/copy: [", "line 1"),
        ("other: {}", "says nothing about waiting_line/copy"),
        ("[]", "says nothing about waiting_line/copy"),
        ("waiting_line/copy: {metric: list_match_score}", "has no prompt"),
        ("waiting_line/copy: {prompt: a}", "has no metric"),
        (
            "waiting_line/copy: {prompt: a, metric: domino_score}",
            "scored by 'domino_score'; known are list_match_score",
        ),
    ],
)
def test_a_bad_configuration_is_named(checkout, text, reason):
    path = checkout / FOLDER / "waiting_line" / "task_config.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=re.escape(str(path))) as error:
        opened(checkout, "waiting_line/copy")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_not_there_is_said(checkout):
    with pytest.raises(SettingsError, match="waiting_line there has copy, insert_random"):
        opened(checkout, "waiting_line/juggle")
    with pytest.raises(SettingsError, match=r"needs dir=FOLDER"):
        tasks.open("upstream/waiting_line/copy")
    with pytest.raises(SettingsError, match="task='x/y': leave it out"):
        tasks.open("upstream/waiting_line/copy", dir=str(checkout), task="x/y")
    for name in ("upstream/copy", "upstream/a/b/c", "upstream/../copy", "upstream/a/", "upstream//b"):
        with pytest.raises(SettingsError, match="upstream/GROUP/TASK"):
            tasks.open(name, dir=str(checkout))
    (checkout / FOLDER / "waiting_line" / "copy.jsonl").write_text("\n")
    with pytest.raises(SettingsError, match="holds no question"):
        opened(checkout, "waiting_line/copy")
