"""The text tasks: their questions, their verdicts, our data, and data of the user's."""

import json
import pickle
import sys
import types
from importlib.util import find_spec

import pytest

from dlm import tasks
from dlm.configuration import compose_config
from dlm.errors import SettingsError
from dlm.tasks.text import TEXT_NAMES, extras, open_text
from dlm.tasks.text.records import OURS, dialogues, sentences, word_sets
from dlm.tasks.text.task import MAX_CHARS

PARAPHRASE, SUMMARISE, EASY, MEDIUM, HARD = TEXT_NAMES


def test_the_registry_opens_every_text_task_from_its_configuration():
    assert [name for name in tasks.every() if name.startswith("parallelbench/text/")] == list(TEXT_NAMES)
    for name in TEXT_NAMES:
        config = compose_config("eval", [f"task={name}"]).task
        options = {key: value for key, value in config.items() if key not in ("_target_", "name", "limit", "form")}
        assert (config["_target_"], config["name"], config["limit"], config["form"]) == (
            "dlm.tasks.open",
            name,
            100,
            "auto",
        )
        assert tasks.open(name, **options) == open_text(name)


@pytest.mark.parametrize("name", TEXT_NAMES)
def test_questions_have_their_place_and_survive_pickling(name):
    task = open_text(name)
    assert (task.name, task.size, task.canvas) == (name, 100, 64)
    asked = [task.instance(i) for i in range(100)]
    assert len({instance.instance_id for instance in asked}) == len({instance.prompt for instance in asked}) == 100
    assert all(instance.shots == () and instance.template is None for instance in asked)
    assert pickle.loads(pickle.dumps(task)).judge(asked[0], "Hello there.") == task.judge(asked[0], "Hello there.")
    for outside in (-1, 100):
        with pytest.raises(IndexError, match="100 questions"):
            task.instance(outside)


def test_prompts_end_with_the_label_of_the_answer(tmp_path):
    (tmp_path / "one.txt").write_text("It rains.\n")
    (tmp_path / "one.jsonl").write_text(json.dumps({"dialogue": "A: Hi.\nB: Hi.", "summary": "A greets B."}) + "\n")
    (tmp_path / "words.txt").write_text("sun sea boat\n")
    prompt = open_text(PARAPHRASE, data=tmp_path / "one.txt").instance(0).prompt.split("\n")
    assert prompt[-2:] == ["Sentence: It rains.", "Paraphrase:"]
    question = open_text(SUMMARISE, data=str(tmp_path / "one.jsonl")).instance(0)
    assert question.prompt.split("\n")[-4:] == ["Dialogue:", "A: Hi.", "B: Hi.", "Summary:"]
    assert question.target == "A greets B."
    for words, asked in ((1, "the word sun."), (2, "the words sun and sea."), (3, "the words sun, sea and boat.")):
        task = open_text(EASY, words=words, data=str(tmp_path / "words.txt"))
        assert task.instance(0).prompt == f"Write one natural sentence that contains {asked}"


def test_a_fluent_sentence_that_ignores_the_words_scores_1_unless_the_composite_is_asked():
    plain, composite = open_text(EASY), open_text(EASY, score="composite")
    question = plain.instance(0)  # sun, beach, sand, wave
    ignoring, right = "The old train was late.", "Waves roll over the sand of the beach in the sun."
    assert [plain.judge(question, text).score for text in (ignoring, right)] == [1.0, 1.0]
    assert [composite.judge(question, text).score for text in (ignoring, right)] == [0.0, 1.0]
    assert [plain.judge(question, text).error for text in (ignoring, right)] == ["missing_word", None]
    parts = plain.judge(question, "The sunny beach has sand.").parts
    assert parts["inclusion_share"] == 0.5 and parts["inclusion"] == parts["inclusion_substring"] == 0.0
    assert parts["grammar"] == parts["grammar_basic"] == parts["grammar_harper"] == 1.0


def test_the_composite_of_a_paraphrase_and_of_a_summary():
    task = open_text(PARAPHRASE, score="composite")
    question = task.instance(0)
    same = task.judge(question, question.target)
    assert (same.score, same.error, same.parts["one_minus_bleu"], same.parts["similarity"]) == (0.0, "copied", 0.0, 1.0)
    assert task.judge(question, question.target.replace(".", "!")).error == "copied"
    other = task.judge(question, "Any van that goes by makes their dog bark.")
    assert other.error is None
    assert other.score == pytest.approx(other.parts["one_minus_bleu"] * other.parts["similarity"])
    assert 0 < other.score < 1
    task = open_text(SUMMARISE, score="composite")
    question = task.instance(0)
    assert task.judge(question, question.target).score == 1.0
    partly = task.judge(question, " ".join(question.target.split()[:6]) + ".")
    assert 0 < partly.parts["rougeL"] < 1
    assert task.judge(question, "Zebras!").error == "unrelated"


@pytest.mark.parametrize("name", TEXT_NAMES)
@pytest.mark.parametrize("grammar", ["basic", "harper"])
@pytest.mark.parametrize(
    ("output", "error"),
    [
        ("", "empty"),
        (" \n\n\t", "empty"),
        ("It " + "x" * 100_000, "too_long"),
        ("\x00\x07", "ungrammatical"),
        ("The dog \ud800 barks.", "ungrammatical"),
        ("\u3053\u308c\u306f\u72ac\u3067\u3059\u3002", "ungrammatical"),
        ("This dog dog barks.", "ungrammatical"),
    ],
)
def test_any_text_gets_a_verdict(name, grammar, output, error):
    task = open_text(name, grammar=grammar)
    verdict = task.judge(task.instance(0), output)
    assert (verdict.error, verdict.score, verdict.parts["composite"]) == (error, 0.0, 0.0)
    assert all(0 <= part <= 1 for part in verdict.parts.values())
    json.dumps(verdict.parsed, allow_nan=False)


def test_an_answer_ends_at_its_first_blank_line():
    task = open_text(EASY)
    question = task.instance(0)
    assert task.judge(question, "\n\nThe dog barks.\n \nthe the the") == task.judge(question, "The dog barks.")
    assert task.judge(question, "The dog barks. " * 5000).error == "too_long"
    assert task.judge(question, "The dog barks. " * (MAX_CHARS // 15)).error == "missing_word"


def test_names_of_the_question_are_no_misspellings():
    task = open_text(SUMMARISE)
    verdicts = [task.judge(task.instance(i), task.instance(i).target) for i in range(100)]
    assert sum(verdict.score for verdict in verdicts) >= 99
    assert all(verdict.parts["grammar_basic"] == verdict.parts["rougeL"] == 1 for verdict in verdicts)
    without = next(i for i in range(100) if "Elif" in task.instance(i).prompt)
    other = next(i for i in range(100) if "Elif" not in task.instance(i).prompt)
    text = "Elif sings."
    assert task.judge(task.instance(without), text).score == 1.0
    assert task.judge(task.instance(other), text).error == "ungrammatical"


def test_the_identity_names_what_the_scores_depend_on(tmp_path):
    identity = open_text(PARAPHRASE).identity
    assert set(identity) == {"data_sha256", "grammar_backend", "harper-py", "sacrebleu", "similarity"}
    assert identity["grammar_backend"] == "harper"
    assert set(open_text(SUMMARISE, grammar="basic").identity) == {"data_sha256", "grammar_backend", "rouge-score"}
    assert open_text(EASY, words=3).identity["data_sha256"] != open_text(EASY).identity["data_sha256"]
    copy = tmp_path / "copy.txt"
    copy.write_bytes((OURS / "words_easy.txt").read_bytes())
    assert open_text(EASY, data=str(copy)).identity == open_text(EASY).identity


@pytest.mark.parametrize(
    ("name", "module", "what"),
    [(PARAPHRASE, "sacrebleu", "a paraphrase task"), (SUMMARISE, "rouge_score", "a summary")],
)
def test_missing_packages_are_said_when_the_task_is_opened(monkeypatch, name, module, what):
    monkeypatch.setattr(extras, "find_spec", lambda asked: None if asked in (module, "harper") else find_spec(asked))
    with pytest.raises(SettingsError, match=rf"{what}.* needs the package {module}: pip install 'dlm\[eval\]'"):
        open_text(name)
    assert open_text(EASY).identity["grammar_backend"] == "basic"


def test_a_similarity_of_the_users(monkeypatch):
    module = types.ModuleType("my_bertscore")
    module.half = lambda answer, source: 0.5 if answer != source else 7.0
    monkeypatch.setitem(sys.modules, "my_bertscore", module)
    task = open_text(PARAPHRASE, similarity="my_bertscore.half")
    question = task.instance(0)
    assert task.identity["similarity"] == "my_bertscore.half"
    assert task.judge(question, "Something else.").parts["similarity"] == 0.5
    assert task.judge(question, question.target).parts["similarity"] == 1.0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("parallelbench/text/translate", {}, "known are parallelbench/text/paraphrase"),
        (PARAPHRASE, {"words": 3}, "has no option 'words'; it has grammar, score, data, similarity"),
        (EASY, {"words": 0}, r"task\.words must be a positive integer"),
        (EASY, {"words": True}, r"task\.words must be a positive integer"),
        (EASY, {"words": 8}, "line 1 has 7 words"),
        (EASY, {"score": "bleu"}, r"task\.score must be one of grammar, composite"),
        (EASY, {"grammar": "java"}, r"task\.grammar must be one of"),
        (EASY, {"data": "/no/such/file.txt"}, r"cannot be read .*set task\.data"),
        (SUMMARISE, {"data": "/no/such/file.jsonl"}, r"no file .*set task\.data"),
        (PARAPHRASE, {"similarity": "bert"}, r"task\.similarity must be chrf"),
    ],
)
def test_bad_options_are_refused_with_what_to_change(name, options, message):
    with pytest.raises(SettingsError, match=message):
        open_text(name, **options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (PARAPHRASE, b"\n \n", "is empty"),
        (PARAPHRASE, b"caf\xe9\n", "no text in UTF-8"),
        (PARAPHRASE, b"It rains.\nIt rains.\n", "same record twice"),
        (EASY, b"a b c d\ne f\n", "line 2 has 2 words"),
        (EASY, b"a b A d\n", "line 1 has a word twice"),
        (SUMMARISE, b'{"dialogue": "A: Hi."}\n', "no text under 'summary'"),
    ],
)
def test_bad_data_is_refused_with_its_place(tmp_path, name, content, message):
    path = tmp_path / ("data.jsonl" if name == SUMMARISE else "data.txt")
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        open_text(name, data=str(path))


def test_our_sentences():
    ours = sentences(str(OURS / "sentences.txt"))
    counts = [len(sentence.split()) for sentence in ours]
    assert len(ours) == len({sentence.casefold() for sentence in ours}) == 100
    assert min(counts) == 3 and 35 <= max(counts) <= 44
    assert 12 <= sum(counts) / 100 <= 16
    assert all(sentence.isascii() for sentence in ours)


def test_our_dialogues():
    ours = dialogues(str(OURS / "dialogues.jsonl"))
    counts = [len(dialogue.split()) for dialogue, _ in ours]
    turns = [len(dialogue.split("\n")) for dialogue, _ in ours]
    assert len(ours) == len({dialogue for dialogue, _ in ours}) == len({summary for _, summary in ours}) == 100
    assert 40 <= sum(counts) / 100 <= 60 and min(counts) >= 9 and max(counts) <= 171
    assert min(turns) == 2 and max(turns) == 8
    assert all(": " in turn for dialogue, _ in ours for turn in dialogue.split("\n"))
    assert all(dialogue.isascii() and summary.isascii() and summary.count(". ") <= 1 for dialogue, summary in ours)
    assert 14 <= sum(len(summary.split()) for _, summary in ours) / 100 <= 20


@pytest.mark.parametrize("level", ["easy", "medium", "hard"])
def test_our_word_sets(level):
    ours = word_sets(str(OURS / f"words_{level}.txt"), 7)
    assert len(ours) == 100
    for count in range(1, 8):  # as many words as one likes to take, no question comes twice
        assert len({frozenset(words[:count]) for words in ours}) == 100
    assert all(word.isascii() and word.isalpha() and word.islower() for words in ours for word in words)
    inside = [(a, b) for words in ours for a in words for b in words if a != b and a in b]
    assert inside == []
    assert len({word for words in ours for word in words[:4]}) >= 300
