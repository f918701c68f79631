"""UCE and RECE written literally from the papers' equations: layer by layer, `inverse`, no sharing.

Independent of ``src/efface``: prompts are tokenised with the tokenizer's own attention mask, every
layer has its own sums, and nothing is factored out. Float64 throughout.
"""

import functools

import torch


def key_value_layers(unet):
    """Lists the weights of every ``attn2.to_k`` and ``attn2.to_v``, by module name."""
    return {
        name: module.weight.detach().double()
        for name, module in unet.named_modules()
        if "attn2" in name and name.endswith(("to_k", "to_v"))
    }


def states(pipe, prompt):
    """Gives the text encoder's final hidden states and the position of the last content token."""
    inputs = pipe.tokenizer(
        prompt,
        padding="max_length",
        max_length=pipe.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        hidden = pipe.text_encoder(inputs.input_ids)[0][0].double()
    return hidden, int(inputs.attention_mask.sum()) - 2


def legacy_rows(pipe, source, target):
    """Takes last content token, end and padding of both; tails cut to equal length."""
    c, last_c = states(pipe, source)
    t, last_t = states(pipe, target)
    final = len(c) - 1
    return (
        c[last_c : final - max(0, last_t - last_c) + 1],
        t[last_t : final - max(0, last_c - last_t) + 1],
    )


def last_rows(pipe, source, target):
    """Takes the last content token of both."""
    c, last_c = states(pipe, source)
    t, last_t = states(pipe, target)
    return c[last_c : last_c + 1], t[last_t : last_t + 1]


def edited(weight, pairs, kept, *, erase, keep, ridge):
    """Solves one layer (UCE, equation 7): ``M G^-1`` with explicit sums over every token."""
    system = ridge * torch.eye(weight.shape[1], dtype=torch.float64)
    moved = ridge * weight
    for sources, targets in pairs:
        for c, t in zip(sources, targets, strict=True):
            moved = moved + erase * torch.outer(weight @ t, c)
            system = system + erase * torch.outer(c, c)
    for rows in kept:
        for r in rows:
            moved = moved + keep * torch.outer(weight @ r, r)
            system = system + keep * torch.outer(r, r)
    return moved @ torch.inverse(system)


def uce(layers, pairs, kept, *, erase=1.0, keep=1.0, ridge=0.5):
    """Edits every layer on its own."""
    return {
        name: edited(weight, pairs, kept, erase=erase, keep=keep, ridge=ridge)
        for name, weight in layers.items()
    }


def returning(originals, layers, rows, *, strength, toward=0.0):
    """Finds the embeddings that bring the original values back (RECE); pulled to zero or a row."""
    width = rows.shape[1]
    left = strength * torch.eye(width, dtype=torch.float64)
    right = torch.zeros(width, width, dtype=torch.float64)
    for name, weight in layers.items():
        left = left + weight.T @ weight
        right = right + weight.T @ originals[name]
    return (rows @ right.T + strength * toward) @ torch.inverse(left).T


def anchored(original, weight, pairs, kept, *, keep, ridge):
    """Solves one layer like `edited`, toward what the unedited weight makes of the targets."""
    system = ridge * torch.eye(weight.shape[1], dtype=torch.float64)
    moved = ridge * weight
    for sources, targets in pairs:
        moved = moved + (targets @ original.T).T @ sources
        system = system + sources.T @ sources
    for rows in kept:
        moved = moved + keep * (rows @ weight.T).T @ rows
        system = system + keep * rows.T @ rows
    return moved @ torch.inverse(system)


def rece(
    originals,
    layers,
    pairs,
    kept,
    *,
    rounds,
    strength,
    keep,
    ridge,
    aim="current",
    toward=None,
    erase=1.0,
    held=(),
):
    """Repeats: find returning embeddings with all layers, erase them in every layer.

    ``toward`` has a row for each of the pairs. ``held`` are rows that rounds hold beside what is
    kept, each scaled by the root of its weight over that of kept rows.
    """
    kept = [*kept, *held]
    for _ in range(rounds):
        back = [
            (returning(originals, layers, sources, strength=strength, toward=to), targets)
            for (sources, targets), to in zip(pairs, toward or [0.0] * len(pairs), strict=True)
        ]
        if aim == "original":
            layers = {
                name: anchored(originals[name], weight, back, kept, keep=keep, ridge=ridge)
                for name, weight in layers.items()
            }
        else:
            layers = uce(layers, back, kept, erase=erase, keep=keep, ridge=ridge)
    return layers


def relative_change(before, after):
    """Sizes the change of all layers together, relative to their size."""
    moved = sum(float(((after[name] - before[name]) ** 2).sum()) for name in before)
    size = sum(float((before[name] ** 2).sum()) for name in before)
    return (moved / size) ** 0.5


def rows_without(pipe, source, target):
    """Aligns two wordings that differ in one place, from the last differing token to the end."""
    unpadded = [pipe.tokenizer(text)["input_ids"] for text in (source, target)]
    shared = 0
    while unpadded[0][-1 - shared] == unpadded[1][-1 - shared]:
        shared += 1
    (c, _), (t, _) = states(pipe, source), states(pipe, target)
    start_c, start_t = (len(ids) - 1 - shared for ids in unpadded)
    count = len(c) - max(start_c, start_t)
    return c[start_c : start_c + count], t[start_t : start_t + count]


def trce(layers, pairs, kept, *, keep, ridge):
    """Moves rows to rows, both sides as means (TRCE, stage 1); pairs are (source, target) rows."""
    count = sum(len(rows) for rows in kept)
    sources, targets = (torch.cat(rows) for rows in zip(*pairs, strict=True))
    return {
        name: edited(
            weight,
            [(sources, targets)],
            kept,
            erase=1 / len(sources),
            keep=keep / count,
            ridge=ridge,
        )
        for name, weight in layers.items()
    }


def end_rows(pipe, source, target):
    """Takes the first end-of-text row of both, found by the tokenizer's attention mask."""
    c, last_c = states(pipe, source)
    t, last_t = states(pipe, target)
    return c[last_c + 1 : last_c + 2], t[last_t + 1 : last_t + 2]


@functools.cache
def shell_averages(near, distance, steps=20000):
    """Sums over a fine grid of cosines (midpoint rule): r s, its square, and r^2 (1 - s^2)."""
    low, high = near
    if distance < 1:
        low = max(low, (1 - distance**2) ** 0.5)
    first = along = across = 0.0
    for step in range(steps):
        s = low + (high - low) * (step + 0.5) / steps
        radius = 1.0
        if distance < float("inf"):
            slack = max(distance**2 - 1 + s**2, 0.0) ** 0.5
            radius = min(max(radius, s - slack), s + slack)
        first += radius * s / steps
        along += (radius * s) ** 2 / steps
        across += radius**2 * (1 - s**2) / steps
    return first, along, across


def shell_moments(row, near, distance, widths=()):
    """Gives what a shell's points around a row are on average, and their second moment.

    Parts of a row that are of different encoders (``widths``, and what is left) are turned apart.
    """
    first, along, across = shell_averages(near, distance)
    second = along * torch.outer(row, row)
    rest = len(row) - sum(widths)
    start = 0
    for width in (*widths, rest) if rest else widths:
        part = row[start : start + width]
        own = (part @ part) * torch.eye(width, dtype=row.dtype) - torch.outer(part, part)
        second[start : start + width, start : start + width] += across / (width - 1) * own
        start += width
    return first * row, second


def realera(layers, pairs, kept, *, near, distance, beyond, keep, ridge, widths=None):
    """Layer by layer from the moments of every single row (reconstruction, note section 6)."""
    widths = widths or [()] * len(pairs)
    count, held = (sum(len(rows) for rows in side) for side in ([c for c, _ in pairs], kept))
    width = pairs[0][0].shape[1]
    system = ridge * torch.eye(width, dtype=torch.float64)
    pulled = torch.zeros(width, width, dtype=torch.float64)
    for (sources, targets), parts in zip(pairs, widths, strict=True):
        for c, t in zip(sources, targets, strict=True):
            mean, second = shell_moments(c, near, distance, parts)
            _, outside = shell_moments(c, beyond, float("inf"), parts)
            system = system + (torch.outer(c, c) + second + outside) / count
            pulled = pulled + (torch.outer(t, c) + torch.outer(t, mean) + outside) / count
    for rows in kept:
        for r in rows:
            system = system + keep / held * torch.outer(r, r)
            pulled = pulled + keep / held * torch.outer(r, r)
    return {
        name: (weight @ pulled + ridge * weight) @ torch.inverse(system)
        for name, weight in layers.items()
    }
