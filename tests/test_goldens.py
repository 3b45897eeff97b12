"""Recorded runs of the references through the fidelity check, and the check itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dlm.api import Generation
from dlm.engine.result import Counts
from scripts import check_goldens
from scripts.goldens.cases import Case, read_cases
from scripts.goldens.check import Checker
from scripts.goldens.explain import Verdict
from scripts.goldens.judge import account
from scripts.goldens.listen import Call
from scripts.goldens.plan import Fault
from tests import references
from tests.doubles import random_dream, random_llada
from tests.models.checkpoints import SEEDS, write_checkpoint

DATA = Path(__file__).parent / "data"
CASES = DATA / "goldens"
# What is known of the selection: these many agree in every token, step and forward.
MATCHED = 292


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in SEEDS:
        write_checkpoint(name, folder / name)
    return folder


@pytest.fixture(scope="module")
def checker(checkpoints: Path) -> Checker:
    return Checker(checkpoints, DATA / "filters")


def case_of(method: str, name: str) -> Case:
    return next(case for case in read_cases(CASES, [method])[method] if case.id == name)


def leaning(model, towards: float):
    """The model in float32, its mask id likelier than it was."""
    model.backbone.float()
    with torch.no_grad():
        model.backbone.get_output_embeddings().weight[model.description.mask_id] *= towards
    model.dtype = torch.float32
    return model


def judge(model, raw: dict) -> Verdict:
    return Checker(Path(), Path(), {"double:float32": model}).check(Case.parse(raw))


def test_a_part_of_the_selection_is_accounted_for(checker: Checker) -> None:
    cases = [case for cases in read_cases(CASES, []).values() for case in cases][::4]
    verdicts = {case.id: checker.check(case) for case in cases}
    assert not {name: verdict for name, verdict in verdicts.items() if verdict.status not in ("matched", "explained")}
    assert sum(verdict.status == "matched" for verdict in verdicts.values()) > 0.9 * MATCHED / 4


@pytest.mark.slow
def test_selection_is_fully_accounted_for(checker: Checker) -> None:
    verdicts = {case.id: checker.check(case) for cases in read_cases(CASES, []).values() for case in cases}
    unexplained = {name: verdict for name, verdict in verdicts.items() if verdict.status == "unexplained"}
    assert not unexplained
    assert sum(verdict.status == "matched" for verdict in verdicts.values()) >= MATCHED
    rules = {name for verdict in verdicts.values() for name in verdict.rules}
    ends = {"end fill", "stops at end"}
    caches = {"idle block call", "last row stale", "window order", "first token forced", "grid per block"}
    caches |= {"dkv un", "dkv un_right", "dkv right", "stale suffix", "subset accepted", "batch topped up"}
    canvases = {"calls without a commit", "law broken", "prompt overwritten", "eviction tie", "score tie"}
    canvases |= {"tail filled", "committed tail fed"}
    assert rules == {"prompt mask", "rows wait", "same draws", "reference raised"} | ends | caches | canvases
    assert not [name for name, verdict in verdicts.items() if verdict.status == "skipped"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("llada_base", "llada_base__llada_tiny__d__p40"),
        ("llada_base", "llada_maskinprompt__llada_tiny__a"),
        ("llada_gumbel", "llada_gumbel0.5__llada_tiny__b__p12"),
        ("fastdllm2_none", "fastdllm2_none__llada_tiny__thr0.6__batch2"),
        ("dream_origin", "dream_origin__b__p05"),
        ("dream_entropy", "dream_entropy_algtemp0.2__b__p12"),
        ("prophet", "prophet__llada_tiny__a__p05"),
        ("adablock_none", "adablock_none__llada_tiny__d__p05"),
        ("eoser_ass", "eoser_ass__llada_tiny__a__p05"),
        ("dinfer_credit", "dinfer_credit0.6__llada_tiny_gqa__a_noes_unroll1__p12"),
        ("dinfer_threshold", "dinfer_threshold0.6__llada_tiny__b_es_unroll4__p05"),
        ("d2_klass", "d2_klass__llada_tiny__a__p12"),
        ("fastdllm_prefix", "fastdllm_prefix__llada_tiny__b_thr0.3__p40"),
        ("dkv_decode", "dkv_decode__llada_tiny__a_r2__p05"),
        ("d2_dualcache", "d2_dual__dream_tiny__bthr__batch2"),
        ("dreamblock_dual", "dreamblock_dual__a_thr0.5__p05"),
        ("l2p_prefix", "l2p_prefix__llada_tiny__b_t0.96__p05"),
        ("l2p_dual", "l2p_dual__llada_tiny__c_t0.6__p12"),
        ("predict_eot", "predict_eot__llada_tiny__a__p12"),
    ],
)
def test_corrupted_record_is_unexplained(checker: Checker, method: str, name: str) -> None:
    case = case_of(method, name)
    place = case.commit_step[0].index(max(case.commit_step[0]) // 2)
    tokens = [list(row) for row in case.gen_ids]
    tokens[0][place] = (tokens[0][place] + 7) % 500
    assert checker.check(replace(case, gen_ids=tokens)).status == "unexplained"

    steps = [list(row) for row in case.commit_step]
    other = next(i for i, step in enumerate(steps[0]) if step > steps[0][place])
    steps[0][place], steps[0][other] = steps[0][other], steps[0][place]
    assert checker.check(replace(case, commit_step=steps)).status == "unexplained"

    for nfe in (case.nfe - 1, case.nfe + 1):
        assert checker.check(replace(case, nfe=nfe)).status == "unexplained"


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("fastdllm_dual", "fastdllm_dual__llada_tiny__b_thr0.3__p40"),
        ("dkv_greedy", "dkv_greedy__llada_tiny__c_r2_w3__p23"),
        ("dream_dkv", "dream_dkv__a_entropy_decoded4_right__p12"),
        ("d2_dllmcache", "d2_dllmcache__dream_tiny__a__p12"),
        ("l2p_eot", "l2p_eot__llada_tiny__b_t0.6__p05"),
        ("l2p_dual", "l2p_dual__llada_tiny__c_t0.6__p12"),
    ],
)
def test_other_positions_fed_are_unexplained(checker: Checker, method: str, name: str) -> None:
    case = case_of(method, name)
    assert case.fed_per_call is not None
    fed = list(case.fed_per_call)
    place = next(i for i, one in enumerate(fed) if one != fed[0])
    fed[place] = fed[0]
    verdict = checker.check(replace(case, fed_per_call=fed))
    assert verdict.status == "unexplained"
    assert any(detail.startswith(f"call {place}, row 0: fed") for detail in verdict.details)
    assert checker.check(replace(case, fed_per_call=fed[:-1])).status == "unexplained"


@pytest.mark.parametrize(
    ("method", "name", "other"),
    [
        ("dream_dkv", "dream_dkv__a_entropy_decoded4_un__p12", {"shift_type": "un_right"}),
        ("dream_dkv", "dream_dkv__a_entropy_decoded4_un_right__p40", {"cache_steps": 2}),
        ("dkv_decode", "dkv_decode__llada_tiny__a_r2__p05", {"cache_reloading_step": 4}),
        ("dllmcache", "dllmcache__llada_tiny__a_p100_g7_r0.25__p23", {"transfer_ratio": 0.1}),
        ("d2_dualcache", "d2_dual__llada_tiny__bthr__batch2", {"use_dual": False}),
        ("l2p_dual", "l2p_dual__llada_tiny__c_t0.6__p12", {"accept_thres": 0.96}),
    ],
)
def test_fault_of_another_setting_explains_nothing(checker: Checker, method: str, name: str, other: dict) -> None:
    case = case_of(method, name)
    assert checker.check(replace(case, settings={**case.settings, **other})).status == "unexplained"


def test_rows_are_put_in_step_and_idle_calls_in_place() -> None:
    def calls(*blocks: tuple[int, int, int]) -> list[Call]:
        return [
            Call(frozenset(range(start, end)), (start, end), place)
            for start, end, count in blocks
            for place in range(count)
        ]

    def run(steps: list[int]) -> Generation:
        counts = Counts(0, 0, 4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        return Generation("", [5, 6, 7, 8], steps, "filled", counts, [1, 2])

    heard = {0: calls((2, 4, 1), (4, 6, 2)), 1: calls((2, 4, 2), (4, 6, 1))}
    found = account([run([0, 0, 1, 2]), run([1, 0, 2, 2])], heard, Fault(()))
    assert found.steps == [[0, 0, 2, 3], [1, 0, 2, 2]]
    assert [sorted(call) for call in found.fed] == [[0, 1], [1], [0, 1], [0]]
    assert found.waits
    # The first row's first block is full after one call, the second one's second block.
    found = account([run([0, 0, 1, 2]), run([1, 0, 2, 2])], heard, Fault((), idle=3))
    assert found.steps == [[0, 0, 2, 3], [1, 0, 2, 2]]
    assert not found.waits
    assert found.fed[1][0].fed == {2, 3, 4}
    assert found.fed[3][1].fed == {4, 5}


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("llada_gumbel", "llada_gumbel0.5__llada_tiny__b__p12"),
        ("dream_origin", "dream_origin__b__p05"),
        ("dream_entropy", "dream_entropy_algtemp0.2__b__p12"),
    ],
)
def test_other_draws_are_judged_in_law(checker: Checker, method: str, name: str) -> None:
    case = case_of(method, name)
    verdict = checker.check(replace(case, seed=1))
    assert verdict.status == "explained"
    assert "in law" in verdict.rules
    tokens = [list(row) for row in case.gen_ids]
    tokens[0][3] = 300  # no model would say that here
    assert checker.check(replace(case, seed=1, gen_ids=tokens)).status == "unexplained"


def test_wrong_temperature_is_noticed_in_law(checker: Checker) -> None:
    case = case_of("llada_gumbel", "llada_gumbel0.5__llada_tiny__b__p12")
    cold = replace(case, seed=1, settings={**case.settings, "temperature": 0.05})
    assert checker.check(cold).status == "unexplained"


def test_idle_calls() -> None:
    model = leaning(random_llada(), 1.0)
    raw = references.llada(model, [[1, 2, 3, 4]], new=8, block=4, steps=16)
    assert judge(model, raw) == Verdict("explained", ("idle calls",))
    assert judge(model, references.llada(model, [[1, 2, 3, 4]], 8, 4, 8)).status == "matched"


def test_random_order_and_drawn_tokens() -> None:
    prompts = [[1, 2, 3, 4], [9, 8, 7, 6]]
    raw = references.llada(leaning(random_llada(), 0.5), prompts, new=8, block=4, steps=8, seed=5)
    assert judge(leaning(random_llada(), 0.5), raw) == Verdict("explained", ("same draws",))
    draw = {"seed": 5, "temperature": 0.7, "top_p": 0.9}
    raw = references.dream(leaning(random_dream(), 0.5), prompts, new=12, steps=6, draw=draw)
    verdict = judge(leaning(random_dream(), 0.5), raw)
    # A nucleus of one token has probability 1, and such positions tie.
    assert verdict == Verdict("explained", ("same draws", "score tie"))


def test_proposed_mask_and_what_it_leaves_behind() -> None:
    seen: set[str] = set()
    for seed in range(12):
        model = leaning(random_llada(seed), 1.3)
        raw = references.llada(model, [[1, 2, 3, 4]], new=16, block=4, steps=8)
        verdict = judge(model, raw)
        assert verdict.status in ("matched", "explained"), verdict
        seen |= set(verdict.rules)
    assert {"mask proposed", "left of block"} <= seen


def test_mean_number_of_masks() -> None:
    seen: set[str] = set()
    for seed in range(8):
        model = leaning(random_dream(seed), 1.3)
        raw = references.dream(model, [[1, 2, 3, 4], [9, 8, 7, 6]], new=12, steps=4)
        verdict = judge(model, raw)
        assert verdict.status in ("matched", "explained"), verdict
        seen |= set(verdict.rules)
    assert {"mask proposed", "batch mean"} <= seen


def test_equal_scores() -> None:
    """Without queries attention is uniform: all open positions are equal, and any order will do."""
    model = leaning(random_llada(), 1.0)
    with torch.no_grad():
        for name, weight in model.backbone.named_parameters():
            if "q_proj" in name:
                weight.zero_()
    raw = references.llada(model, [[1, 2, 3, 4]], new=6, block=6, steps=6)
    raw["commit_step"][0] = raw["commit_step"][0][::-1]
    raw["gen_ids"][0] = raw["gen_ids"][0][::-1]
    verdict = judge(model, raw)
    assert verdict.status == "explained"
    assert set(verdict.rules) <= {"score tie", "token tie"}


def test_settings_without_translation_are_skipped(checker: Checker) -> None:
    case = case_of("llada_base", "llada_base__llada_tiny__b__p12")
    verdict = checker.check(replace(case, settings={**case.settings, "novelty": 1}))
    assert verdict == Verdict("skipped", details=("settings without a translation: novelty",))


def test_command_line(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    threads = torch.get_num_threads()
    report = tmp_path / "fidelity.md"
    folders = [str(CASES), str(checkpoints), str(DATA)]
    assert check_goldens.main([*folders, "llada_c*", "edge", "--output", str(report)]) == 0
    assert "llada_cfg" in capsys.readouterr().out
    text = report.read_text(encoding="utf-8")
    assert "| `llada_cfg` |" in text
    assert "python scripts/check_goldens.py" in text
    assert check_goldens.main([*folders, "nobody"]) == 2
    torch.set_num_threads(threads)


def test_command_line_fails_on_what_it_cannot_explain(checkpoints: Path, tmp_path: Path) -> None:
    content = json.loads((CASES / "llada_cfg.json").read_text())
    content["cases"][0]["gen_ids"][0][0] += 1
    (tmp_path / "llada_cfg.json").write_text(json.dumps(content))
    later = {"method": "future", "cases": [{**content["cases"][0], "method": "future", "reference": {}}]}
    (tmp_path / "future.json").write_text(json.dumps(later))
    folders = [str(tmp_path), str(checkpoints), str(DATA)]
    assert check_goldens.main([*folders, "llada_cfg"]) == 1
    assert check_goldens.main([*folders, "fut*"]) == 0
    assert check_goldens.main([*folders, "future"]) == 1


def test_what_cannot_be_read_or_compared_is_unexplained(checker: Checker, tmp_path: Path) -> None:
    good = json.loads((CASES / "wino.json").read_text())
    broken = [{"id": "half"}, 7, {**good["cases"][0], "id": "odd", "canvas_after_call": [[1, 2], 3]}, good["cases"][0]]
    (tmp_path / "wino.json").write_text(json.dumps({"method": "wino", "cases": broken}))
    (tmp_path / "torn.json").write_text('{"method": "torn", "cases": [')
    verdicts = {case.id: checker.check(case) for cases in read_cases(tmp_path, []).values() for case in cases}
    assert [verdict.status for verdict in verdicts.values()] == ["unexplained"] * 4 + ["matched"]
    assert verdicts["half"].details == ("cannot be read: KeyError: 'prompt_len'",)


@pytest.mark.parametrize("method", ["wino", "rcr", "saber", "vicinity", "hierarchy_remask"])
def test_another_canvas_is_unexplained(checker: Checker, method: str) -> None:
    case = next(case for case in read_cases(CASES, [method])[method] if checker.check(case).status == "matched")
    assert case.canvases is not None
    canvases = [list(canvas) for canvas in case.canvases]
    middle = canvases[len(canvases) // 2 - 1]
    middle[middle.index(case.mask_id)] = 7
    assert checker.check(replace(case, canvases=canvases)).status == "unexplained"


def test_block_diffusion_is_fully_accounted_for() -> None:
    """SDAR, FreeDave over it, Fast-dLLM v2, LLaDA2.0, 2.1 and LLaDA-MoE: tokens, calls, and the number of calls."""
    block = DATA / "block"
    checker = Checker(block / "checkpoints", DATA / "filters")
    cases = {case.id: case for cases in read_cases(block / "cases", []).values() for case in cases}
    verdicts = {name: checker.check(case) for name, case in cases.items()}
    assert not {name: verdict for name, verdict in verdicts.items() if verdict.status not in ("matched", "explained")}
    assert sum(verdict.status == "matched" for verdict in verdicts.values()) >= 26
    assert {rule for v in verdicts.values() for rule in v.rules} == {
        "overwrites known tokens", "fewer forwards with drafts"
    }  # fmt: skip
    for name in ("sdar_dynamic__sdar_tiny__b8_s2_g36_t0.9__p12", "llada2_edit__b16_g32_t0.5_e0.3_p2_n1__p37"):
        case = cases[name]
        for wrong in (
            replace(case, call_kinds=case.call_kinds + "d"),
            replace(case, gen_ids=[[case.gen_ids[0][0] + 1, *case.gen_ids[0][1:]]]),
        ):
            assert checker.check(wrong).status == "unexplained"
