#include "textflag.h"

// func enter(clone unsafe.Pointer, size uintptr, first, res unsafe.Pointer) int64
//
// The child uses registers alone: R12 is the call it is at, R13 the result.
// System calls clobber only AX, CX and R11.
TEXT ·enter(SB), NOSPLIT, $0-40
	MOVQ	clone+0(FP), DI
	MOVQ	size+8(FP), SI
	MOVQ	first+16(FP), R12
	MOVQ	res+24(FP), R13
	MOVL	$435, AX		// clone3
	SYSCALL
	TESTQ	AX, AX
	JEQ	call
	MOVQ	AX, ret+32(FP)
	RET

call:
	MOVQ	R12, 0(R13)		// where it is
	MOVQ	64(R12), BX		// control
	BTQ	$60, BX
	JCS	stop
	MOVQ	0(R12), AX
	MOVQ	8(R12), DI
	MOVQ	16(R12), SI
	MOVQ	24(R12), DX
	MOVQ	32(R12), R10
	MOVQ	40(R12), R8
	MOVQ	48(R12), R9
	SYSCALL
	CMPQ	AX, $-4095
	JCC	error			// unsigned: -4095 … -1
	MOVQ	56(R12), CX		// where the result goes
	TESTQ	CX, CX
	JEQ	stored
	MOVQ	AX, (CX)
stored:
	BTQ	$62, BX
	JCC	onward
	TESTQ	AX, AX
	JNE	leave
onward:
	MOVBQZX	BX, CX			// how many to skip
	INCQ	CX
	IMULQ	$80, CX
	ADDQ	CX, R12
	JMP	call

error:
	NEGQ	AX
	BTQ	$61, BX
	JCS	next
	SHRQ	$8, BX
	MOVQ	BX, CX
	ANDQ	$0xfff, CX
	CMPQ	AX, CX
	JEQ	next
	SHRQ	$12, BX
	MOVQ	BX, CX
	ANDQ	$0xfff, CX
	CMPQ	AX, CX
	JEQ	next
	SHRQ	$12, BX
	ANDQ	$0xfff, BX
	CMPQ	AX, BX
	JNE	fail
next:
	ADDQ	$80, R12
	JMP	call

stop:
	MOVQ	8(R12), AX
fail:
	MOVQ	AX, 8(R13)
	MOVQ	$1, 16(R13)
	MOVL	$127, DI
	JMP	exit
leave:
	XORL	DI, DI
exit:
	MOVL	$231, AX		// exit_group
	SYSCALL
	INT	$3
