"""ONNX Runtime and OpenVINO on the exported model: float32, int8 by ONNX Runtime's dynamic quantisation, bf16.

Their packages are not the worker's (`loadtest.environment`); whoever imports this has them on its path. CPU only.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import embedding

from loadtest.scorers.work import Columns
from worker.scoring import encode, forward
from worker.scoring.batch import Floats, Ints
from worker.scoring.bundle import Bundle
from worker.scoring.model import IntentModel

EXPORTED: Final = "model.onnx"
QUANTISED: Final = "model.int8.onnx"
_INPUTS: Final = ("tokens", "contexts", "sums")
_MOST_WINDOWS: Final = 1024

Feeds = dict[str, NDArray[Any]]


class Plain(nn.Module):
    """The same function in operators that ONNX has: an `EmbeddingBag` would become a loop over its bags."""

    def __init__(self, model: IntentModel) -> None:
        super().__init__()
        model.bert.set_attn_implementation("eager")
        self.bert, self.head = model.bert, model.head

    def forward(self, tokens: Tensor, contexts: Tensor, sums: Tensor) -> Tensor:
        """As `IntentModel`."""
        events = embedding(tokens, self.head.events.weight).sum(dim=2)  # [b, L, hidden]; `NOTHING` has a row of zeros
        first = self.head.first.expand(events.shape[0], 1, -1)
        mask = torch.cat([tokens.new_ones(tokens.shape[0], 1), (tokens[:, :, 0] != encode.NOTHING).to(tokens.dtype)], 1)
        window = self.bert(inputs_embeds=torch.cat([first, events], dim=1), attention_mask=mask).pooler_output
        return self.head.fuse(window, contexts, sums)


def export(bundle: Bundle, windows: Sequence[bytes], folder: Path) -> None:
    """Writes `EXPORTED` and `QUANTISED`. Done once for a model, ahead of serving; about a minute for the largest."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from torch.export import Dim

    arrays = Columns.of(windows, bundle.vocabulary).padded(np.arange(len(windows)))
    count, length = Dim("count"), Dim("length")
    whole = folder / EXPORTED
    torch.onnx.export(
        Plain(bundle.model).eval(),
        tuple(torch.from_numpy(array) for array in arrays),
        str(whole),
        input_names=_INPUTS,
        output_names=["logits"],
        dynamic_shapes={"tokens": {0: count, 1: length}, "contexts": {0: count}, "sums": {0: count}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    graph = onnx.load(str(whole))
    del graph.graph.value_info[:]  # the exporter's shapes confuse the quantiser
    bare = folder / "model.bare.onnx"
    onnx.save(graph, str(bare))
    quantize_dynamic(
        bare, folder / QUANTISED, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"]
    )
    bare.unlink()


class _Runtime:
    """Padded batches; `grouped` cuts them into groups of like length first, as the worker does where it cannot pack."""

    def __init__(self, bundle: Bundle, *, grouped: bool) -> None:
        self._vocabulary, self._calibration = bundle.vocabulary, bundle.calibration
        self._grouped = grouped

    def arrange(self, windows: Sequence[bytes]) -> list[tuple[Ints, Feeds]]:
        """The host's part: each group's places and padded arrays."""
        columns = Columns.of(windows, self._vocabulary)
        return [
            (chosen, dict(zip(_INPUTS, columns.padded(chosen), strict=True))) for chosen in self._groups(columns.batch)
        ]

    def forward(self, arranged: list[tuple[Ints, Feeds]]) -> Floats:
        """[n, HORIZONS] probabilities."""
        out = np.empty((sum(len(chosen) for chosen, _ in arranged), 3), np.float32)
        for chosen, feeds in arranged:
            out[chosen] = self._run(feeds)
        return self._calibration.probabilities(out)

    def _groups(self, batch: Any) -> Iterator[Ints]:
        if self._grouped:
            return forward.groups(batch.lengths, max_windows=_MOST_WINDOWS)
        return iter([np.arange(len(batch))])

    def _run(self, feeds: Feeds) -> Floats:
        raise NotImplementedError


class OnnxRuntime(_Runtime):
    """ONNX Runtime with all its graph optimisations."""

    def __init__(self, bundle: Bundle, *, model: Path, threads: int, grouped: bool) -> None:
        super().__init__(bundle, grouped=grouped)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def _run(self, feeds: Feeds) -> Floats:
        return cast("Floats", self._session.run(None, feeds)[0])


class OpenVino(_Runtime):
    """OpenVINO set for latency: one request at a time with all threads, as a micro-batch wants."""

    def __init__(self, bundle: Bundle, *, model: Path, threads: int, grouped: bool, precision: str) -> None:
        super().__init__(bundle, grouped=grouped)
        import openvino

        hints = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = openvino.Core()
        self._request = core.compile_model(core.read_model(str(model)), "CPU", hints).create_infer_request()

    def _run(self, feeds: Feeds) -> Floats:
        return np.array(self._request.infer(feeds)[0], np.float32)
