#include "textflag.h"

// func enter32(nr, arg uint32) int32
TEXT ·enter32(SB), NOSPLIT, $0-12
	MOVL	nr+0(FP), AX
	MOVL	arg+4(FP), DI
	MOVL	DI, BX
	MOVL	DI, CX
	MOVL	DI, DX
	MOVL	DI, SI
	MOVQ	BP, R15
	MOVL	DI, BP
	INT	$0x80
	MOVQ	R15, BP
	MOVL	AX, ret+8(FP)
	RET
