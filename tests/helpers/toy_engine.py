"""A second engine, to see that nothing but an engine's own package knows one, and to show what it takes to write one.

It is not private: the client hands all of its shares to the server, which adds both up, computes in numpy, and splits the result.
"""

import json
import random
import time
from collections import Counter
from multiprocessing.connection import Client, Listener

import numpy as np

from raysp.pi.engine import CLIENT, NOBODY, SERVER, Engine, OperationStatistics, Party, PortTaken, Program, Statistics

ONE = 2**24
"""1.0 in fixed point."""


class Toy(Engine):
    packages = ("numpy",)
    protocols = ("semi2k",)

    def require(self):
        """It comes with the tests."""

    def compile(self, graph, image_chw, *, shared=False):
        steps, inputs = [], {graph.input_name: (image_chw.numpy(), NOBODY if shared else CLIENT)}
        for operation in graph.operations:
            kind, options, weights = _step(operation)
            names = [f"{operation.name}.{number}" for number in range(len(weights))]
            inputs |= {name: (weight.detach().numpy(), SERVER) for name, weight in zip(names, weights, strict=True)}
            steps.append({"kind": kind, "options": options, "reads": [*operation.inputs, *names], "gives": operation.name})
        return Program(code=json.dumps(steps).encode(), inputs=inputs)

    def shares_of(self, program, protocol):
        pairs = {name: _split(value) for name, (value, _) in program.inputs.items()}
        return [{name: pair[rank] for name, pair in pairs.items()} for rank in (SERVER, CLIENT)]

    def reconstruct(self, shares, protocol):
        return _add_up(*shares)

    def connect(self, *, rank, host, ports, protocol, directory):
        return ToyParty(rank, (host, ports[SERVER]))


class ToyParty(Party):
    def __init__(self, rank, server):
        self._is_server = rank == SERVER
        if self._is_server:
            try:
                self._link = Listener(server).accept()
            except OSError as error:
                raise PortTaken(error.strerror) from None
        while not self._is_server:
            try:
                self._link = Client(server)
                break
            except ConnectionRefusedError:
                time.sleep(0.02)

    def load(self, code, shares):
        self._steps, self._shares = json.loads(code), shares

    def meet(self):
        self._link.send_bytes(b"here")
        self._link.recv_bytes()

    def run(self):
        self._sent, self._messages, self._done, self._took = 0, 0, Counter(), Counter()
        if self._is_server:
            values = {name: _add_up(share, self._receive()) for name, share in self._shares.items()}
            for step in self._steps:
                began = time.perf_counter()
                values[step["gives"]] = _KINDS[step["kind"]](*(values[name] for name in step["reads"]), **step["options"])
                self._done[step["kind"]] += 1
                self._took[step["kind"]] += time.perf_counter() - began
            self._result, other = _split(values[self._steps[-1]["gives"]])
            self._send(other)
        else:
            for share in self._shares.values():
                self._send(share)
            self._result = self._receive()

    def _send(self, share):
        for part in share:
            self._link.send_bytes(part)
        self._sent += sum(map(len, share))
        self._messages += len(share)

    def _receive(self):
        return [self._link.recv_bytes() for _ in range(2)]

    def result(self):
        return self._result

    def statistics(self):
        rows = [(kind, times, self._took[kind], 0, 0) for kind, times in self._done.items()]
        rows.append(("shares", 1, 0.0, self._sent, self._messages))
        return Statistics(
            sent_bytes=self._sent,
            messages=self._messages,
            operations=tuple(
                OperationStatistics(operation=kind, times=times, wall_s=wall_s, sent_bytes=sent, messages=messages)
                for kind, times, wall_s, sent, messages in rows
            ),
        )


def _split(value):
    """Two shares of a value, each its shape and random 64-bit integers; they add up to it in fixed point."""
    value = np.asarray(value)
    mask = np.frombuffer(random.SystemRandom().randbytes(8 * value.size), dtype=np.int64).reshape(value.shape)
    shape = json.dumps(value.shape).encode()
    return [[shape, share.tobytes()] for share in (np.round(value * ONE).astype(np.int64) - mask, mask)]


def _add_up(one, other):
    total = np.frombuffer(one[1], dtype=np.int64) + np.frombuffer(other[1], dtype=np.int64)
    return (total / ONE).reshape(json.loads(one[0]))


def _step(operation):
    """An operation's kind, what else of it is public, and its weights."""
    from torch import nn  # a party's process never comes here, and starts sooner without torch

    from raysp.models.relu import MaskedReLU

    module = operation.module
    if module is None and operation.layer == "add":
        return "add", {}, []
    if isinstance(module, nn.Conv2d) and module.groups == 1 and set(module.dilation) == {1}:
        options = {"stride": module.stride[0], "padding": module.padding[0]}
        return "convolution", options, [module.weight, *([] if module.bias is None else [module.bias])]
    if isinstance(module, nn.Linear):
        return "dot", {}, [module.weight, *([] if module.bias is None else [module.bias])]
    if isinstance(module, MaskedReLU):
        return "relu", {"mask": module.mask.view(operation.shape).int().tolist()}, []
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return "mean", {}, []
    if isinstance(module, nn.Flatten):
        return "flatten", {}, []
    raise ValueError(f"{operation.name} ({type(module).__name__}) can't be run by the toy engine")


def _convolve(x, kernels, bias=0.0, *, stride, padding):
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernels.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    return np.tensordot(kernels, windows, axes=((1, 2, 3), (0, 3, 4))) + np.reshape(bias, (-1, 1, 1))


_KINDS = {
    "add": lambda x, y: x + y,
    "convolution": _convolve,
    "dot": lambda x, weights, bias=0.0: weights @ x + bias,
    "relu": lambda x, mask: np.where(mask, np.maximum(x, 0), x),
    "mean": lambda x: x.mean(axis=(1, 2), keepdims=True),
    "flatten": lambda x: x.ravel(),
}

ENGINE = Toy()
