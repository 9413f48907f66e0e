"""The response norms as Triton kernels. They need ``triton``, which a CUDA build of torch brings.

All tensors are dense, with the channels last: (images, rows, columns, channels) in memory. So the
neighbours of a value lie at fixed distances from it, a window that leaves a group or a row is
known from the value's own place, and a block of values needs no padding whatever the number of
channels. Values are squared and summed in float32.

Capitals are constants of the compilation; ``BLOCK`` values are one program's.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _inverse_power(s, BETA: tl.constexpr):
    """``s**-BETA``, by square roots for the published 0.75 and for the 1.75 of its gradient."""
    if BETA == 0.75:
        root = tl.rsqrt(s)
        return root * tl.sqrt(root)
    elif BETA == 1.75:
        root = tl.rsqrt(s)
        return root * root * root * tl.sqrt(root)
    else:
        return tl.exp2(-BETA * tl.log2(s))


@triton.jit
def _neighbour(pointer, place, shift, inside, OWN: tl.constexpr):
    """The values ``shift`` channels on, as float32, and 0 outside their group."""
    near = place + shift
    mask = inside & (near >= 0) & (near < OWN)
    return tl.load(pointer + shift, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _rectified(value, RECTIFY: tl.constexpr):
    if RECTIFY:
        value = tl.where(value < 0, 0.0, value)  # keeps NaN, as torch's relu does
    return value


@triton.jit
def _channel_scale(
    x, place, shift, inside, k, alpha, OWN: tl.constexpr, HALF: tl.constexpr, RECTIFY: tl.constexpr
):
    """``k + alpha * sum`` around the values ``shift`` channels on."""
    sums = tl.zeros(place.shape, tl.float32)
    for step in tl.static_range(-HALF, HALF + 1):
        value = _rectified(_neighbour(x, place, shift + step, inside, OWN), RECTIFY)
        sums += value * value
    return k + alpha * sums


@triton.jit
def _channel_term(
    x, g, place, shift, inside, k, alpha,
    OWN: tl.constexpr, HALF: tl.constexpr, BETA: tl.constexpr, RECTIFY: tl.constexpr,
):  # fmt: skip
    """``g x / s**(beta + 1)`` of the values ``shift`` channels on; outside the group x is 0."""
    s = _channel_scale(x, place, shift, inside, k, alpha, OWN, HALF, RECTIFY)
    value = _rectified(_neighbour(x, place, shift, inside, OWN), RECTIFY)
    return value * _neighbour(g, place, shift, inside, OWN) * _inverse_power(s, BETA + 1)


@triton.jit
def channel_forward(
    x_all, y_all, values, k, alpha,
    OWN: tl.constexpr, HALF: tl.constexpr, BETA: tl.constexpr, RECTIFY: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """``y = x / s**beta`` over the channels; ``OWN`` is the number of channels in a group."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    place = ((first % OWN).to(tl.int32) + lane) % OWN
    inside = first + lane < values
    x = x_all + first + lane
    s = _channel_scale(x, place, 0, inside, k, alpha, OWN, HALF, RECTIFY)
    y = _rectified(_neighbour(x, place, 0, inside, OWN), RECTIFY) * _inverse_power(s, BETA)
    tl.store(y_all + first + lane, y.to(y_all.dtype.element_ty), mask=inside)


@triton.jit
def channel_backward(
    x_all, g_all, dx_all, values, k, alpha,
    OWN: tl.constexpr, HALF: tl.constexpr, BETA: tl.constexpr, RECTIFY: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """``dx = g / s**beta - 2 alpha beta x W(g x / s**(beta + 1))`` over the channels."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    place = ((first % OWN).to(tl.int32) + lane) % OWN
    inside = first + lane < values
    x, g = x_all + first + lane, g_all + first + lane
    terms = tl.zeros((BLOCK,), tl.float32)
    if HALF <= 3:  # shifts are constants: the compiler loads a neighbour once for all its sums
        for shift in tl.static_range(-HALF, HALF + 1):
            terms += _channel_term(x, g, place, shift, inside, k, alpha, OWN, HALF, BETA, RECTIFY)
    else:
        for shift in range(-HALF, HALF + 1):
            terms += _channel_term(x, g, place, shift, inside, k, alpha, OWN, HALF, BETA, RECTIFY)
    raw = _neighbour(x, place, 0, inside, OWN)
    s = _channel_scale(x, place, 0, inside, k, alpha, OWN, HALF, RECTIFY)
    dx = _neighbour(g, place, 0, inside, OWN) * _inverse_power(s, BETA)
    dx -= 2 * alpha * BETA * _rectified(raw, RECTIFY) * terms
    if RECTIFY:
        dx = tl.where(raw <= 0, 0.0, dx)
    tl.store(dx_all + first + lane, dx.to(dx_all.dtype.element_ty), mask=inside)


@triton.jit
def _row_sum(
    rows, row, height, lane, ROW: tl.constexpr, CHANNELS: tl.constexpr, HALF: tl.constexpr,
    SQUARE: tl.constexpr,
):  # fmt: skip
    """Sum over the columns of the window in one row, 0 outside the map."""
    sums = tl.zeros(lane.shape, tl.float32)
    for shift in tl.static_range(-HALF, HALF + 1):
        near = lane + shift * CHANNELS
        mask = (near >= 0) & (near < ROW) & (row * ROW + near < height * ROW)
        value = tl.load(rows + row * ROW + near, mask=mask, other=0.0).to(tl.float32)
        sums += value * value if SQUARE else value
    return sums


@triton.jit
def plane_forward(
    x_all, y_all, height, k, alpha,
    ROW: tl.constexpr, CHANNELS: tl.constexpr, BETA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``y = x / s**beta`` over 5x5 neighbours. One program goes down the rows of one image and
    keeps the sums of five rows, so that it reads each row once; ``ROW`` is its values."""
    x = x_all + tl.program_id(0).to(tl.int64) * height * ROW
    y = y_all + tl.program_id(0).to(tl.int64) * height * ROW
    lane = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row0 = tl.zeros((BLOCK,), tl.float32)
    row1 = tl.zeros((BLOCK,), tl.float32)
    row2 = _row_sum(x, 0, height, lane, ROW, CHANNELS, 2, True)
    row3 = _row_sum(x, 1, height, lane, ROW, CHANNELS, 2, True)
    for row in range(height):
        row4 = _row_sum(x, row + 2, height, lane, ROW, CHANNELS, 2, True)
        s = k + alpha * (row0 + row1 + row2 + row3 + row4)
        here = row * ROW + lane
        value = tl.load(x + here, mask=lane < ROW, other=0.0).to(tl.float32)
        result = value * _inverse_power(s, BETA)
        tl.store(y + here, result.to(y_all.dtype.element_ty), mask=lane < ROW)
        row0, row1, row2, row3 = row1, row2, row3, row4


@triton.jit
def plane_terms(
    x_all, g_all, direct_all, term_all, height, k, alpha,
    ROW: tl.constexpr, CHANNELS: tl.constexpr, BETA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write ``g / s**beta`` and ``g x / s**(beta + 1)``, from which ``plane_backward`` computes."""
    start = tl.program_id(0).to(tl.int64) * height * ROW
    x, g, direct, term = x_all + start, g_all + start, direct_all + start, term_all + start
    lane = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row0 = tl.zeros((BLOCK,), tl.float32)
    row1 = tl.zeros((BLOCK,), tl.float32)
    row2 = _row_sum(x, 0, height, lane, ROW, CHANNELS, 2, True)
    row3 = _row_sum(x, 1, height, lane, ROW, CHANNELS, 2, True)
    for row in range(height):
        row4 = _row_sum(x, row + 2, height, lane, ROW, CHANNELS, 2, True)
        s = k + alpha * (row0 + row1 + row2 + row3 + row4)
        here = row * ROW + lane
        value = tl.load(x + here, mask=lane < ROW, other=0.0).to(tl.float32)
        upstream = tl.load(g + here, mask=lane < ROW, other=0.0).to(tl.float32)
        tl.store(direct + here, upstream * _inverse_power(s, BETA), mask=lane < ROW)
        tl.store(term + here, upstream * value * _inverse_power(s, BETA + 1), mask=lane < ROW)
        row0, row1, row2, row3 = row1, row2, row3, row4


@triton.jit
def plane_backward(
    x_all, direct_all, term_all, dx_all, height, alpha,
    ROW: tl.constexpr, CHANNELS: tl.constexpr, BETA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``dx = g / s**beta - 2 alpha beta x W(g x / s**(beta + 1))`` from what ``plane_terms``
    wrote."""
    start = tl.program_id(0).to(tl.int64) * height * ROW
    x, direct, term, dx = x_all + start, direct_all + start, term_all + start, dx_all + start
    lane = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row0 = tl.zeros((BLOCK,), tl.float32)
    row1 = tl.zeros((BLOCK,), tl.float32)
    row2 = _row_sum(term, 0, height, lane, ROW, CHANNELS, 2, False)
    row3 = _row_sum(term, 1, height, lane, ROW, CHANNELS, 2, False)
    for row in range(height):
        row4 = _row_sum(term, row + 2, height, lane, ROW, CHANNELS, 2, False)
        here = row * ROW + lane
        value = tl.load(x + here, mask=lane < ROW, other=0.0).to(tl.float32)
        result = tl.load(direct + here, mask=lane < ROW, other=0.0)
        result -= 2 * alpha * BETA * value * (row0 + row1 + row2 + row3 + row4)
        tl.store(dx + here, result.to(dx_all.dtype.element_ty), mask=lane < ROW)
        row0, row1, row2, row3 = row1, row2, row3, row4
