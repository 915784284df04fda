"""Compile the Triton kernels for GPUs that this machine lacks and read their resources. Run without TRITON_INTERPRET.

python compile_gate.py CASE … prints one JSON line for each case "kernel,arch,precision,num_features,num_slots", for
instance "semihard_kernel,90,fast,128,4": the tile shape that the launcher chooses, and the assembler's figures for it.
InfoNCE's kernels take no slots; theirs are 0.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from neuroimagen.kernels.backends import infonce_triton_kernels, semihard_triton_kernels
from neuroimagen.kernels.backends.devices import shared_memory
from neuroimagen.kernels.backends.infonce_triton import padded, tiles_for
from neuroimagen.kernels.backends.semihard_loss_triton import PIECE_LENGTH
from neuroimagen.kernels.backends.semihard_triton import OPERAND_SCALE, tile_shape

TOOLS = Path(triton.backends.nvidia.__file__).parent / "bin"
LISTS = {
    "semihard_kernel": "A:*fp16 B:*fp16 BIAS:*fp32 POSITIVE:*i32 START:*i32 END:*i32 BEST:*u32 COLUMN:*i32 "
    "M:i32 N:i32 num_slots:i32 columns_per_split:i32",
    "farthest_kernel": "A:*fp16 B:*fp16 BIAS:*fp32 POSITIVE:*i32 NEGATIVE:*i32 START:*i32 END:*i32 FARTHEST:*i32 "
    "M:i32 N:i32 num_slots:i32",
    "prepare_kernel": "X:*fp32 ORDER:*i64 CENTRE:*fp32 UNIT:*fp32 OPERAND:*fp16 BIAS:*fp32 "
    "num_rows:i32 D:i32 x_stride:i32",
    "hinge_kernel": "X:*fp32 COLUMNS:*fp32 LIST:*i32 SLOPE:*fp32 SUM:*fp32 ACTIVE:*i32 "
    "M:i32 D:i32 num_slots:i32 margin:fp32",
    "gradient_kernel": "X:*fp32 OTHERS:*fp32 BEGIN:*i64 OTHER:*i32 SLOPE:*fp32 PIECE_BEGIN:*i64 PARTS:*fp32 "
    "OUT:*fp32 D:i32",
    "piece_kernel": "X:*fp32 OTHERS:*fp32 BEGIN:*i64 OTHER:*i32 SLOPE:*fp32 PIECE_BEGIN:*i64 PIECE_ROW:*i64 "
    "PARTS:*fp32 D:i32",
    "logsumexp_kernel": "A:*fp16 B:*fp16 FACTOR:*fp32 ROW_LARGEST:*fp32 ROW_TOTAL:*fp32 COLUMN_LARGEST:*fp32 "
    "COLUMN_TOTAL:*fp32 first_row:i32 M:i32 N:i32 half:i32 columns_per_split:i32",
    "slope_kernel": "A:*fp16 B:*fp16 FACTOR:*fp32 ROW_LSE:*fp32 COLUMN_LSE:*fp32 ROW_WEIGHT:*fp32 "
    "COLUMN_WEIGHT:*fp32 SCALE:*fp32 HIGH:*fp16 LOW:*fp16 first_row:i32 M:i32 N:i32 half:i32 stride:i32",
    "product_kernel": "HIGH:*fp16 LOW:*fp16 B:*fp16 FACTOR:*fp32 OUT:*fp32 num_m:i32 num_n:i32 num_k:i32 "
    "blocks_per_split:i32 half:i32 stride:i32 out_stride:i32",
}
INFONCE = {
    "logsumexp_kernel": {},
    "slope_kernel": {"BOTH": True},
    "product_kernel": {"TRANSPOSED": False, "ADD": False},
    "product_kernel_transposed": {"TRANSPOSED": True, "ADD": True},
}
"""Case → the compile-time arguments that the tile shape does not give."""
ALIGNED = ("half", "stride", "out_stride")
"""Numbers that are multiples of 16 wherever speed counts, and that Triton specialises for."""
SIGNATURES = {name: dict(pair.split(":") for pair in line.split()) for name, line in LISTS.items()}
MMA = ("HGMMA", "HMMA", "UTCHMMA")
REGISTERS_PER_SM = 65536


def gate(kernel, arch, precision, num_features, num_slots):
    """Resources of one kernel as the launcher would build it."""
    if kernel in INFONCE:
        tiles = tiles_for(arch)
        is_product = kernel.startswith("product")
        constants = (
            tiles.product_constants(padded(num_features))
            if is_product
            else tiles.constants(backward=kernel == "slope_kernel")
        )
        compiled = compile_kernel(
            kernel.removesuffix("_transposed"), constants | INFONCE[kernel], arch, tiles.options()
        )
        return {"shape": asdict(tiles), **resources(compiled, arch, multiplies=True)}
    exact = precision == "exact"
    shape = tile_shape(num_features, num_slots, exact=exact, arch=arch)
    constants, options = shape.constants(exact=exact), shape.options()
    if kernel == "semihard_kernel":
        constants["K"] = shape.K
    elif kernel == "prepare_kernel":
        constants = {"BM": 32, "BD": shape.BD, "ND": shape.ND, "EXACT": exact, "SCALE": OPERAND_SCALE}
        options = {}
    elif kernel == "hinge_kernel":
        constants, options = {"ROOT": True, "BM": 16, "BD": 128}, {}
    elif kernel == "gradient_kernel":
        constants, options = {"BE": 8, "BD": 128}, {}
    elif kernel == "piece_kernel":
        constants, options = {"LENGTH": PIECE_LENGTH, "BE": 8, "BD": 128}, {}
    compiled = compile_kernel(kernel, constants, arch, options)
    multiplies = "NS" in constants
    scanned = shape.BM * shape.BN if multiplies else 0
    return {"shape": asdict(shape), **resources(compiled, arch, multiplies=multiplies, scanned=scanned)}


def compile_kernel(name, constants, arch, options):
    """`arch`: 80, 90, 100 … (NVIDIA) or "gfx942". Pointers are 16-byte aligned, as PyTorch's allocations are."""
    types = SIGNATURES[name]
    modules = (semihard_triton_kernels, infonce_triton_kernels)
    kernel = next(getattr(module, name) for module in modules if hasattr(module, name))
    source = ASTSource(
        kernel,
        {argument: "constexpr" if argument in constants else types[argument] for argument in kernel.arg_names},
        constants,
        {
            (kernel.arg_names.index(argument),): [["tt.divisibility", 16]]
            for argument, kind in types.items()
            if kind.startswith("*") or argument in ALIGNED
        },
    )
    target = GPUTarget("cuda", arch, 32) if isinstance(arch, int) else GPUTarget("hip", arch, 64)
    return triton.compile(source, target=target, options=options)


def resources(compiled, arch, *, multiplies, scanned=0):
    """Registers, spills, shared memory and its limit; whether row offsets are 64 bits wide; for a kernel that
    `multiplies`: MMA instructions, and on NVIDIA blocks per multiprocessor; for one whose hot loop scans tiles of
    `scanned` elements: instructions per element.
    """
    result = {
        "shared": compiled.metadata.shared,
        "shared_limit": shared_memory(arch),
        "wide_rows": wide_row_pointers(compiled.asm["ttir"]),
    }
    if not isinstance(arch, int):
        text = compiled.asm["amdgcn"]
        result["registers"] = int(re.search(r"\.vgpr_count:\s+(\d+)", text)[1])
        result["spills"] = int(re.search(r"\.vgpr_spill_count:\s+(\d+)", text)[1])
        if multiplies:
            result["mma"] = len(re.findall(r"\bv_mfma", text))
        return result
    with tempfile.TemporaryDirectory() as folder:
        cubin, ptx = Path(folder, "kernel.cubin"), Path(folder, "kernel.ptx")
        cubin.write_bytes(compiled.asm["cubin"])
        ptx.write_text(compiled.asm["ptx"])
        usage = run_tool("cuobjdump", "-res-usage", cubin).stdout
        assembler = "ptxas" if arch < 90 else "ptxas-blackwell"  # those that Triton itself takes
        machine = f"sm_{arch}{'a' if arch >= 90 else ''}"
        arguments = "-v", "--regAllocOptLevel=2", f"--gpu-name={machine}", ptx, "-o", Path(folder, "out")
        verbose = run_tool(assembler, *arguments).stderr
        sass = run_tool("nvdisasm", "-c", cubin).stdout
    result["registers"] = int(re.search(r"REG:(\d+)", usage)[1])
    result["spills"] = int(re.search(r"(\d+) bytes spill stores", verbose)[1])
    if multiplies:
        warps = compiled.metadata.num_warps
        registers_per_block = -(-result["registers"] // 8) * 8 * 32 * warps
        shared_blocks = (shared_memory(arch) + 1024) // (result["shared"] + 1024)
        result["blocks_per_sm"] = min(REGISTERS_PER_SM // registers_per_block, shared_blocks)
        result["mma"] = sum(len(re.findall(rf"\b{op}\b", sass)) for op in MMA)
        if scanned:
            result["instructions_per_element"] = round(sum(hot_loop(sass).values()) * 32 * warps / scanned, 2)
    return result


def wide_row_pointers(ttir):
    """Whether every tile of pointers to float rows starts from [rows, 1] or [1, rows] offsets of 64 bits."""
    shapes = re.findall(r"tt\.addptr[^:]*: tensor<(\d+)x(\d+)x!tt\.ptr<f\w+>>, tensor<\d+x\d+x(i\d+)>", ttir)
    return all(width == "i64" for first, second, width in shapes if "1" in (first, second))


def run_tool(name, *arguments):
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True)


def hot_loop(sass):
    """Opcodes of the last loop that holds an MMA, without what a forward branch inside it skips (the masks' tiles)."""
    labels, lines = {}, []
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L_x?_?\w+):", line):
            labels[label[1]] = len(lines)
        elif code := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)(.*)", line):
            lines.append((code[1], code[2]))
    loops = []
    for place, (opcode, rest) in enumerate(lines):
        target = re.search(r"(\.L_x?_?\w+)", rest)
        if opcode == "BRA" and target and labels.get(target[1], place + 1) <= place:
            loops.append((labels[target[1]], place))
    with_mma = [loop for loop in loops if any(code in MMA for code, _ in lines[loop[0] : loop[1] + 1])]
    begin, end = max(with_mma, key=lambda loop: loop[1])
    hot, place = Counter(), begin
    while place <= end:
        opcode, rest = lines[place]
        hot[opcode] += 1
        target = re.search(r"(\.L_x?_?\w+)", rest)
        skips = opcode == "BRA" and target and place < labels.get(target[1], 0) <= end
        place = labels[target[1]] if skips else place + 1
    return hot


def main(cases):
    for case in cases:
        kernel, arch, precision, num_features, num_slots = case.split(",")
        arch = int(arch) if arch.isdigit() else arch
        print(
            json.dumps({"case": case, **gate(kernel, arch, precision, int(num_features), int(num_slots))}), flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1:])
