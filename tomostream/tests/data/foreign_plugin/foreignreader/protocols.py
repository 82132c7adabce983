# SPDX-License-Identifier: GPL-3.0-or-later
"""One protocol that works in streaming, and that trusts what its input says of itself when it starts."""

import json
import os

from pwem.protocols import EMProtocol
from pyworkflow.protocol import ProtStreamingBase, params


class ProtForeignReader(EMProtocol, ProtStreamingBase):
    """Writes what it reads of its input at its start to extra/facts.json."""

    _label = "reader"

    def _defineParams(self, form):
        form.addSection("Input")
        form.addParam("inputSet", params.PointerParam, pointerClass="EMSet", label="Input")
        form.addParallelSection(threads=2, mpi=0)

    def stepsGeneratorStep(self):
        items = self.inputSet.get()
        acquisition = items.getAcquisition() if hasattr(items, "getAcquisition") else None
        facts = {"text": str(items), "size": items.getSize(), "open": items.isStreamOpen(),
                 "pixel_size": items.getSamplingRate() if hasattr(items, "getSamplingRate") else None,
                 "dim": items.getDim() if hasattr(items, "getDim") else None,
                 "halves": items.hasOddEven() if hasattr(items, "hasOddEven") else None,
                 "aligned": bool(items.hasAlignment()) if hasattr(items, "hasAlignment") else None,
                 "voltage": acquisition.getVoltage() if acquisition else None,
                 "cs": acquisition.getSphericalAberration() if acquisition else None,
                 "axis": acquisition.getTiltAxisAngle() if hasattr(acquisition, "getTiltAxisAngle") else None,
                 "first": str(items.getFirstItem())}
        part = self._getExtraPath("facts.part")
        with open(part, "w", encoding="utf-8") as file:
            json.dump(facts, file)
        os.replace(part, self._getExtraPath("facts.json"))     # whole, for who waits for it
