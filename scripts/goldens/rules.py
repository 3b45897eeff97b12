"""The rules that may explain a difference, in plain words; :mod:`scripts.goldens.explain` tests them."""

from __future__ import annotations

# Scores that differ by less than twice this are equal. A float32 softmax over a few hundred ids is off by
# up to 9e-7 from its float64 value (measured on the recorded canvases), in the reference's kernel and,
# independently, in ours; float64 scores inherit the rounding of float32 logits alone, which the flat ends
# of a softmax damp.
TIE = {"float32": 5e-7, "float64": 1e-8}

# Logits this close are equal: the two sides compute them with different kernels, and agree to 2e-5 on the
# recorded logits.
TOKEN_TIE = 2e-5

RULES: dict[str, str] = {
    "overwrites known tokens": (
        "SDAR's published top-k asks for more positions than are masked and falls on known ones, the prompt's among"
        " them, which it overwrites (block_diffusion_generate, arXiv 2510.06303). Ours commits what is masked; up to"
        " the call that overwrites, both agree in tokens and calls."
    ),
    "fewer forwards with drafts": (
        "The tokens agree, and ours needs fewer calls: FreeDave's loop does not draft over what a finished block leaves"
        " open in its window."
    ),
    "stops sooner": (
        "The tokens agree up to the end of the answer, and ours needs fewer calls: the published loops look for the end"
        " only where it has just been committed, or after a block."
    ),
    "score tie": (
        "At a call the two sides commit different positions whose scores are equal: raising the scores of "
        "the positions the reference took by 5e-07 (1e-08 for references that rank in float64) and lowering "
        "all others by as much, relative to 1, makes our selection take exactly those. The margin is the "
        "rounding error of a float32 softmax, up to 9e-7 on these canvases. The reference ranks by float32 "
        "probabilities and leaves equal ones to torch.topk, whose order is not specified; ours takes the "
        "lowest position. Runs with a cache or a memory are compared as a whole: with every score and confidence moved "
        "by that much towards what the record does next, our run equals the record."
    ),
    "token tie": (
        "The recorded token and ours have logits within 2e-05 of each other at that position, so the two "
        "argmaxes fall differently; ours takes the lowest id."
    ),
    "mask proposed": (
        'The mask id has the largest logit at a position. The reference does not ban it: it "commits" the '
        "mask, which uses up budget and leaves the position open. With the mask id allowed, our selection "
        "gives the recorded commits. We never propose the mask id."
    ),
    "prompt mask": (
        "The prompt contains the mask id. The reference looks for candidates left of the block too, so the "
        "prompt's open positions are filled and take budget from the answer, which may keep masks. With "
        "candidates counted from the start of the row, our selection gives every recorded commit, those in "
        "the prompt included. Ours refuses such a prompt (PromptError) and points to dlm.infill."
    ),
    "left of block": (
        "Open positions left of the active block (left over from a proposed mask id) compete with those "
        "inside it, because the reference cuts candidates on the right only. With that bound removed our "
        "selection gives the recorded commits."
    ),
    "batch mean": (
        "Dream computes the number of positions to commit from the mean number of open positions in the "
        "batch. With that number our selection gives the recorded commits; ours counts each row on its own."
    ),
    "idle calls": (
        "The reference makes a fixed number of calls for every block, also when nothing is open any more. "
        "Tokens are equal, commit steps are equal once those calls are taken out, and the forwards differ "
        "by exactly their number."
    ),
    "rows wait": (
        "In a batch the reference opens the next block when all rows have completed the present one; a row "
        "that is done sits through the calls of the others. Ours lets every row go on, and a row's result "
        "does not depend on its batch. Taking out the calls at which the row had nothing open in the block, "
        "tokens and steps are equal."
    ),
    "same draws": (
        "The reference draws from torch's global generator over the whole batch, canvas and vocabulary; "
        "ours from a stream of its own per row and position, so the runs cannot agree draw by draw. Instead "
        "the reference's draws are repeated (same seed, shapes, order) and handed to our rule: with them, "
        "our logits, proposals, confidences and budgets give the recorded commits at every call. That our "
        "own draws follow the same distribution is tested in tests/."
    ),
    "in law": (
        "The same, where most draws could not be repeated: with the recorded canvas before every call, the "
        "number of commits is our budget, at temperature 0 every token is our proposal, above it no token "
        "has a probability below 1e-7 and all of them together are not less likely than expected (5 "
        "standard deviations), and no position was chosen or left out against odds of 1e-7. Only for runs "
        "whose seed does not give the recorded draws more often than another seed does."
    ),
    "end fill": (
        "Tokens, steps and calls agree up to the end of the block that holds the end of the text; behind it both sides "
        "have the end id. The record books that filler on the last call, ours has step -1 for what a stop rule wrote."
    ),
    "stops at end": (
        "The same, but the reference, although told not to stop early, leaves the loop after a block with the end of "
        "the text and returns masks behind it. Ours writes the end id there."
    ),
    "float32 tie": (
        "Two positions have the same probability in float32 and the reference leaves their order to torch.topk. With "
        "confidences in float64, or with the higher of two equal positions first, our run equals the record: tokens, "
        "steps and forwards."
    ),
    "subset accepted": (
        "FreeDave++ accepts a draft that holds a part of what the threshold commits at a step. Tokens and forwards are "
        "equal, and the only other difference is that the record books a part of such a joint step one call earlier. "
        "Ours accepts whole steps, which is what the undrafted run takes."
    ),
    "idle block call": (
        "Fast-dLLM's first version and dParallel's copy of it look whether a block is full only after a call "
        "inside it: a block that its first call has completed costs one more, which commits nothing. With such a "
        "call put in after every such block of ours, tokens, steps, forwards and fed positions are equal. Ours "
        "opens the next block."
    ),
    "last row stale": (
        "d2Cache's block caches for Dream feed the block moved one to the left, so that the last position of a "
        "block (of the row, for the prefix cache) is not recomputed once its token is there: the others attend to "
        "the key of a mask until the block ends. With that window, and without our stamp rule, our run equals the "
        "record. Ours feeds the row before the block and the whole block."
    ),
    "batch topped up": (
        "d2Cache feeds all rows of a batch as many positions as the one it would feed most, so that a row's answer"
        " depends on its neighbours. With the recorded numbers, and the rows filled up as there, our run equals the"
        " record in tokens, steps, forwards and positions counted; the record shows those of one row alone."
    ),
    "window order": (
        "dKV-Cache-Greedy lays the windows around the positions of a step in the order in which they are "
        "committed, ours from left to right; where two windows meet their union differs. With the recorded order "
        "our run equals the record. Steps of one position have no such difference."
    ),
    "dkv un": (
        "dKV-Cache for Dream with shift_type un keeps the key of a position as soon as the next one is known, "
        "masked or not; when it is decided later, the key of its mask stays until the next refresh. With that "
        "rule, and without our stamp rule, our run equals the record. Ours keeps a key once its own token is "
        "there."
    ),
    "dkv un_right": (
        "With shift_type un_right a key is kept once the position and the next one are known. This is sound, and "
        "feeds positions that neither changed nor answer for a mask. With that rule our run equals the record."
    ),
    "dkv right": (
        "With shift_type right a key is kept once the position is known, although the mask behind it then gets no "
        "logits: the reference ranks it by NaN, which torch.topk takes for the best, and commits id 0. With all "
        "of that our run equals the record. Ours feeds the row that answers for a mask."
    ),
    "first token forced": (
        "Fast-dLLM's block decoder for Dream, and AdaBlock's with a dual cache, do not feed the row before the "
        "block, so that inside the block the logits of its first position are missing. They commit that position "
        "from the block's first call, however unsure it is, and nothing else from that call. With such a "
        "selection, and that row left out, our run equals the record. Ours feeds the row and lets the sampler "
        "choose."
    ),
    "grid per block": (
        "With alg entropy the same decoder starts Dream's time grid anew in every block and truncates its "
        "numbers, from the second call on. With that budget our run equals the record. Ours has the grid over the "
        "whole canvas only, and here commits the same number at every step."
    ),
    "block abandoned": (
        "With one step per block the same decoder leaves every block right after its second call, whose result it "
        "does not use, and returns the masks. A run of ours that fills the first position of every block, with a "
        "call without work behind each, equals the record. Ours fills every block."
    ),
    "stale suffix": (
        "Learn2PD's dual cache, after a cut at a predicted end of the text, goes on attending to the stored keys of "
        "positions that are gone, until the next block. With that, our run equals the record. Ours does not attend "
        "to them any more from the next forward on."
    ),
    "reference raised": (
        "The reference ended with an exception. Ours completes every row, without masks, and each row of "
        "the batch equals its single run."
    ),
    "both refuse": (
        "The reference ended with an exception, and ours refuses the settings with an error that says what to change."
    ),
    "calls without a commit": (
        "The record shows the canvas after every call, and some calls leave it as it was: Slow-Fast goes on exploring "
        "and filling a block that is full, dInfer's vicinity refresh is always followed by a forward of the window, "
        "DAEDAL makes one more forward when the first length is settled. "
        "With those calls taken out the canvases are equal, one by one. Ours makes no such call."
    ),
    "law broken": (
        "The record breaks a rule that ours keeps, in a way its code is known for: a committed token becomes another "
        "one or a mask although the sampler takes nothing back (KLASS's fallback, CCD-DS), fewer masks are in reach "
        "than Saber's top-k wants and it goes beyond them, DAEDAL's row grows by more than there is room for and loses "
        "what stood at its end, or a step limit leaves masks. Up to that call every canvas is equal."
    ),
    "tail filled": (
        "Once an end of text is committed, DCD and d3LLM (early_stop) fill everything behind it, committed or not, "
        "with that id, and go on before it. Up to there, the call included, every canvas is equal. Ours goes on "
        "behind it too, or (stop_at_end=decoded) takes the tail away."
    ),
    "prompt overwritten": (
        "The reference writes into the prompt. DAWN's greedy loop goes on when no node is left and takes position 0 "
        '(and joins two conditions by "and" where its text suggests "or"): with both faults put in our run equals the '
        "record. RCR masks the surest prompt tokens, counted as 1.0, where generated ones are as sure: with that "
        "fault our run equals the record up to and including the first such call; records do not show the prompt "
        "behind it."
    ),
    "committed tail fed": (
        "Once fewer positions are open than DCD's window holds, its cache feeds all positions up to the end of the row "
        "(or of the widest window), though nothing is open behind the last mask. With that our run equals the record. "
        "Ours ends behind the last open position."
    ),
    "eviction tie": (
        "Sparse-dLLM's maximum filter gives neighbours equal scores, and torch.topk's order decides which keys stay. "
        "With torch.topk in place of our rule (the lower position first) our run equals the record."
    ),
}
