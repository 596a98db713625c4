"""Look-ups of 64 bytes at a time, by the byte permutations of AVX-512 (VBMI), where the processor has them.

LLVM makes no such instructions of loops.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["look_up_blocks"]

_BYTES = 64
_LEVELS = ir.VectorType(ir.IntType(8), _BYTES)


def _is_for(context: Any) -> bool:
    *_, features = context.codegen().magic_tuple()
    return "+avx512vbmi" in features.split(",")


@intrinsic
def look_up_blocks(_typing: Any, levels: Any, table: Any, out: Any) -> Any:
    """Looks up the bytes of packed pixels in the table of their channel, as far as they fill blocks of 64.

    Args:
        levels: uint8 ``[4 · P]``, contiguous.
        table: uint8 ``[768]``: 256 entries each for red, green and blue, contiguous.
        out: uint8 ``[4 · P]``, contiguous. Its padding becomes arbitrary.

    Returns:
        How many bytes were looked up: 0 where the processor has no such permutations, or there are fewer than 64.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if not _is_for(context):
            return context.get_constant(types.intp, 0)
        source, entries, target = (
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args, arguments, strict=True)
        )

        def integer(value: int) -> Any:
            return context.get_constant(types.intp, value)

        def vector(pointer: Any, offset: Any) -> Any:
            return builder.bitcast(builder.gep(pointer, [offset]), _LEVELS.as_pointer())

        # Takes from 128 entries, by the lower 7 bits of each level; the highest tells which 128.
        permutation = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_LEVELS, [_LEVELS] * 3), "llvm.x86.avx512.vpermi2var.qi.512"
        )
        quarters = [builder.load(vector(entries.data, integer(start)), align=1) for start in range(0, 768, _BYTES)]
        stop = builder.and_(cgutils.unpack_tuple(builder, source.shape)[0], integer(-_BYTES))
        with cgutils.for_range_slice(builder, integer(0), stop, integer(_BYTES), inc=True) as (start, _):
            block = builder.load(vector(source.data, start), align=1)
            is_high = builder.icmp_signed("<", block, ir.Constant(_LEVELS, [0] * _BYTES))
            result = block
            for channel in range(3):
                a, b, c, d = quarters[4 * channel : 4 * channel + 4]
                low, high = builder.call(permutation, [a, block, b]), builder.call(permutation, [c, block, d])
                is_channel = [int(position % 4 == channel) for position in range(_BYTES)]
                mask = ir.Constant(ir.VectorType(ir.IntType(1), _BYTES), is_channel)
                result = builder.select(mask, builder.select(is_high, high, low), result)
            builder.store(result, vector(target.data, start), align=1)
        return stop

    return types.intp(levels, table, out), generate
