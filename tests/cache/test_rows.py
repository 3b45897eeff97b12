"""A row is alone in its cache too: neighbours, order, compaction, padding (E6, E8, E9, E11; law 1)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cache
import samplers
from cache.run import Run
from dlm.engine.plan import Branches, CacheQuery
from tests.cache.runs import FAMILIES, PROMPTS, history
from tests.cache.steps import Stepper

POLICIES = {name: getattr(cache, name)() for name in cache.PRESETS if name not in ("none", "block_causal")}
# Small canvases: windows that fit them.
POLICIES |= {
    "vicinity": cache.vicinity(3, 2, warmup=2),
    "window": cache.window(ahead=4),
    "adaptive": cache.adaptive(before=3, after=2, every_tokens=5),
    "recap": cache.recap(positions=3),
    "d2cache": cache.d2cache(masks=3, gap=2),
    "surelock": cache.surelock(bound=0.05),
    "dsb": cache.dsb(before=2, every_tokens=5),
    "elastic": cache.elastic(window=4),
    "delayed_prefix": cache.delayed_prefix(length=8),
}
POLICIES |= {"dual_every": cache.dual(3), "dkv_reference": cache.dkv_decode(4, "reference")}
POLICIES |= {"dsb_trailing": cache.dsb(before=2, after=1, every_tokens=5, trailing=True)}


def sampler_for(name: str) -> Any:
    """Rows that finish their blocks at different steps; for the greedy cache an order it can know."""
    return samplers.random(blocks=samplers.Fixed(8)) if name == "dkv_greedy" else samplers.threshold(0.3)


@pytest.mark.covering
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", POLICIES)
def test_neighbours_order_and_compaction_change_nothing(name: str, family: str) -> None:
    """Five unequal prompts over three places, so that rows finish, leave, move and join."""
    model, policy, sampler = FAMILIES[family](), POLICIES[name], sampler_for(name)
    prompts = [*PROMPTS, [30, 2, 30], [9] * 9]
    alone = [history(model, policy, sampler, prompts=[prompt], new=20) for prompt in prompts]
    together = history(model, policy, sampler, prompts=prompts, new=20, batch_size=3)
    for row, single in enumerate(alone):
        assert together.tokens[row] == single.tokens[0]
        assert [s.tokens for s in together.steps[row]] == [s.tokens for s in single.steps[0]]
        assert together.counts[row].forwards == single.counts[0].forwards
        assert together.counts[row].token_forwards == single.counts[0].token_forwards


EXACT = {name: policy for name, policy in POLICIES.items() if name not in ("sparse", "window", "dkv_greedy", "recap")}
EXACT |= {"sparse": cache.sparse(1.0), "window": cache.window(ahead=20), "d2cache": cache.d2cache()}
EXACT |= {"elastic": cache.elastic(window=64)}


@pytest.mark.parametrize("name", EXACT)
def test_guidance_has_its_own_stream(name: str) -> None:
    """On one layer a cache is exact with guidance too, in a batch whose rows leave."""
    model = FAMILIES["llada"](layers=1)
    sampler = samplers.threshold(0.3, blocks=samplers.Fixed(8), guidance=1.0)
    exact = history(model, None, sampler, prompts=PROMPTS, batch_size=2)
    assert history(model, EXACT[name], sampler, prompts=PROMPTS, batch_size=2).differs_at(exact, 1e-9) is None


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_batch_of_any_prompts(data: Any) -> None:
    family = data.draw(st.sampled_from(sorted(FAMILIES)))
    name = data.draw(st.sampled_from(sorted(POLICIES)))
    prompts = data.draw(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=12), min_size=2, max_size=4))
    size = data.draw(st.integers(1, 3))
    model, policy, sampler = FAMILIES[family](), POLICIES[name], sampler_for(name)
    if name == "dkv_greedy":  # a copy of a prompt draws from its own stream
        prompts = [list(p) for p in {tuple(p) for p in prompts}]
    together = history(model, policy, sampler, prompts=prompts, new=12, batch_size=size)
    for row, prompt in enumerate(prompts):
        assert together.tokens[row] == history(model, policy, sampler, prompts=[prompt], new=12).tokens[0]


class _Watched(Run):
    """Checks before every forward that no visible key will be one of another token."""

    seen = 0

    def plan(self, now: CacheQuery) -> Any:
        plan = super().plan(now)
        after = torch.where(plan.fed, now.canvas.tokens, self.stamps)
        visible = self.policy.visible(self._context(now))
        live = now.canvas.columns < now.canvas.end[:, None]
        visible = live if visible is None else live & visible
        assert (after == now.canvas.tokens)[visible].all()
        type(self).seen += 1
        return plan


REMASKING = {
    "topk": samplers.topk(),
    "saber": samplers.saber(),
    "remdm": samplers.remdm(),
    "wino": samplers.wino(),
    "hierarchy_remask": samplers.hierarchy_remask(),
}


@pytest.mark.covering
@pytest.mark.parametrize("sampler", REMASKING)
@pytest.mark.parametrize("name", ["prefix", "dual", "vicinity", "dkv_decode", "window", "freecache", "adaptive"])
def test_no_key_of_a_token_that_is_no_longer_there(name: str, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.Policy, "open", lambda self, layout: _Watched(self, layout))
    _Watched.seen = 0
    run = history(FAMILIES["llada"](), POLICIES[name], REMASKING[sampler], prompts=PROMPTS)
    assert _Watched.seen > 3
    assert all(39 not in tokens for tokens in run.tokens)


@pytest.mark.covering
@pytest.mark.parametrize("sampler", REMASKING)
@pytest.mark.parametrize("name", ["prefix", "dual", "vicinity", "dkv_decode", "freecache", "adaptive", "surelock"])
def test_samplers_that_take_tokens_back_are_exact_on_one_layer(name: str, sampler: str) -> None:
    model = FAMILIES["llada"](layers=1)
    exact = history(model, None, REMASKING[sampler], prompts=PROMPTS)
    assert history(model, POLICIES[name], REMASKING[sampler], prompts=PROMPTS).differs_at(exact, 1e-9) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_to_a_bucket_leaves_result_and_store_alone(family: str) -> None:
    model = FAMILIES[family]()
    exact, padded = (Stepper(model, cache.dual(), PROMPTS, block=6, static=static) for static in (False, True))
    for stepper in (exact, padded):
        stepper.forward()
        stepper.finish()
        stepper.commit({9: 3})
        stepper.forward()
    assert padded.plan.feeds[0].tokens.shape[1] > exact.plan.feeds[0].tokens.shape[1]
    assert torch.allclose(padded.logits, exact.logits, atol=1e-9)
    for a, b in zip(padded.run.store.keys, exact.run.store.keys, strict=True):
        assert torch.allclose(a[:, :-1], b[:, :-1], atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["prefix", "dual", "dkv_decode"])
def test_logits_of_what_was_asked_are_those_of_all(name: str, family: str) -> None:
    model = FAMILIES[family]()
    stepper = Stepper(model, getattr(cache, name)(), PROMPTS)
    for _ in range(2):
        logits = stepper.forward()
        for row in range(len(PROMPTS)):
            for feed, sets in zip(stepper.plan.feeds, stepper.hidden.sets, strict=True):
                with torch.inference_mode():
                    every = model.backbone.head(sets[0][row])
                where = range(every.shape[0]) if feed.positions is None else feed.positions[row].tolist()
                source = [int(stepper.blocks.block_start[row]) + i - model.description.shift for i in range(8)]
                columns = torch.tensor([list(where).index(s) for s in source])
                assert torch.equal(every[columns], logits[row])
        stepper.finish()
        stepper.commit({len(PROMPTS[0]) + 1: 4})


@pytest.mark.parametrize("layout", ["batch", "tree"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_peek_changes_nothing_and_accepting_it_is_the_store_forward(family: str, layout: str) -> None:
    """Three versions of one row in one forward; the accepted one leaves what a storing forward of it leaves."""
    model = FAMILIES[family]()
    peeking, storing = (Stepper(model, cache.dual(), [PROMPTS[0]]) for _ in range(2))
    for stepper in (peeking, storing):
        stepper.forward()
        stepper.finish()
    drafts = [{8: 1}, {8: 1, 9: 2}, {7: 3, 12: 4}]
    storing.commit(drafts[1])
    stored_logits = storing.forward()

    peeking.ask()
    tokens = peeking.canvas.tokens.repeat(3, 1)
    for branch, draft in enumerate(drafts):
        for place, token in draft.items():
            tokens[branch, place] = token
    slot, wanted = torch.zeros(3, dtype=torch.long), peeking.blocks.block & peeking.canvas.masked
    versions = Branches(
        canvas=peeking.canvas.branched(tokens, slot), blocks=peeking.blocks.of(slot), wanted=wanted[slot], ahead=None,
        owner=slot, parent=torch.arange(3), first=slot[:1], depths=[0, 0, 0], counts=[3],
    )  # fmt: skip
    before = buffers(peeking)
    logits = peeking.evaluate(versions, layout)
    assert all(torch.equal(a, b) for a, b in zip(before, buffers(peeking), strict=True))
    assert torch.allclose(logits[1], stored_logits[0], atol=1e-9)
    with torch.inference_mode():
        peeking.run.accept(torch.tensor([1]))
    for mine, theirs in zip(buffers(peeking), buffers(storing), strict=True):
        assert torch.allclose(mine[:, :-1], theirs[:, :-1], atol=1e-9)


@pytest.mark.parametrize("layout", ["batch", "tree"])
@pytest.mark.parametrize("name", ["dual", "prefix", "vicinity", "dkv_decode", "dkv_pd", "freecache", "window"])
@pytest.mark.parametrize("family", FAMILIES)
def test_versions_that_follow_each_other_are_the_forwards_that_follow_each_other(
    family: str, name: str, layout: str
) -> None:
    """A row and three states after it, fed at once, against four forwards; and what is left in the store and stamps."""
    model, policy = FAMILIES[family](), POLICIES[name]
    together, single = (Stepper(model, policy, [PROMPTS[0], PROMPTS[1]]) for _ in range(2))
    first = len(PROMPTS[0])
    for stepper in (together, single):
        for place in range(3):  # past the warm-up
            stepper.forward()
            stepper.commit({first + place: 2})
            stepper.finish()
    states = [{}, {first + 5: 1}, {first + 3: 4}, {first + 6: 3}]
    together.ask()
    tokens, owner = [], []
    for row in range(2):
        now = together.canvas.tokens[row].clone()
        for state in states if row == 0 else states[:1]:
            for place, token in state.items():
                now[place] = token
            tokens.append(now.clone())
            owner.append(row)
    slot = torch.tensor(owner)
    many = together.canvas.branched(torch.stack(tokens), slot)
    depth = torch.tensor([0, 1, 2, 3, 0])
    blocks = together.blocks.of(slot).later(depth)
    versions = Branches(
        canvas=many, blocks=blocks, wanted=many.masked & blocks.block, ahead=None, owner=slot,
        parent=torch.tensor([0, 0, 1, 2, 4]), first=torch.tensor([0, 4]),
        depths=depth.tolist(), counts=[4, 1],
    )  # fmt: skip
    logits = together.evaluate(versions, layout)
    for place, state in enumerate(states):
        single.commit(state)
        alone = single.forward()
        open_ = single.canvas.masked[0, first : first + 8]
        assert torch.allclose(logits[place][open_], alone[0][open_], atol=1e-9), place
        if place == 0:
            assert torch.allclose(logits[4], alone[1], atol=1e-9)
        single.finish()
    with torch.inference_mode():
        together.run.accept(torch.tensor([3, 4]))
    together.commit({place: token for state in states for place, token in state.items()})
    together.finish()
    assert torch.equal(together.run.stamps, single.run.stamps)
    rows = slice(0, 1)  # the other row has taken one step here and four there
    for mine, theirs in zip(buffers(together), buffers(single), strict=True):
        assert torch.allclose(mine[rows, :-1], theirs[rows, :-1], atol=1e-9)


def buffers(stepper: Stepper) -> list[torch.Tensor]:
    store = stepper.run.store
    return [buffer.clone() for buffer in (*store.keys, *store.values)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["prefix", "dual", "vicinity", "dkv_decode", "window", "adaptive"])
def test_branches_over_a_cache_keep_to_their_row(name: str, family: str) -> None:
    """Look-ahead: several versions of a row look at its keys, and only the kept one is written."""
    model, policy = FAMILIES[family](), POLICIES[name]
    sampler = samplers.lopa(threshold=0.5, branches=2, blocks=samplers.Fixed(8))
    together = history(model, policy, sampler, prompts=[*PROMPTS, [30, 2]], new=20, batch_size=3)
    for row, prompt in enumerate([*PROMPTS, [30, 2]]):
        alone = history(model, policy, sampler, prompts=[prompt], new=20)
        assert together.tokens[row] == alone.tokens[0]
        assert together.counts[row].token_forwards == alone.counts[0].token_forwards
