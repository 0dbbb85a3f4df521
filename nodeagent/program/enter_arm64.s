#include "textflag.h"

// func enter(clone unsafe.Pointer, size uintptr, first, res unsafe.Pointer) int64
//
// The child uses registers alone: R19 is the call it is at, R20 the result.
TEXT ·enter(SB), NOSPLIT, $0-40
	MOVD	clone+0(FP), R0
	MOVD	size+8(FP), R1
	MOVD	first+16(FP), R19
	MOVD	res+24(FP), R20
	MOVD	$435, R8		// clone3
	SVC
	CBZ	R0, call
	MOVD	R0, ret+32(FP)
	RET

call:
	MOVD	R19, 0(R20)		// where it is
	MOVD	64(R19), R21		// control
	TBNZ	$60, R21, stop
	MOVD	0(R19), R8
	MOVD	8(R19), R0
	MOVD	16(R19), R1
	MOVD	24(R19), R2
	MOVD	32(R19), R3
	MOVD	40(R19), R4
	MOVD	48(R19), R5
	SVC
	CMN	$4095, R0
	BHS	error			// unsigned: -4095 … -1
	MOVD	56(R19), R22		// where the result goes
	CBZ	R22, stored
	MOVD	R0, (R22)
stored:
	TBZ	$62, R21, onward
	CBNZ	R0, leave
onward:
	AND	$0xff, R21, R22		// how many to skip
	ADD	$1, R22
	MOVD	$80, R23
	MUL	R23, R22
	ADD	R22, R19
	B	call

error:
	NEG	R0, R0
	TBNZ	$61, R21, next
	UBFX	$8, R21, $12, R22
	CMP	R22, R0
	BEQ	next
	UBFX	$20, R21, $12, R22
	CMP	R22, R0
	BEQ	next
	UBFX	$32, R21, $12, R22
	CMP	R22, R0
	BNE	fail
next:
	ADD	$80, R19
	B	call

stop:
	MOVD	8(R19), R0
fail:
	MOVD	R0, 8(R20)
	MOVD	$1, R22
	MOVD	R22, 16(R20)
	MOVD	$127, R0
	B	exit
leave:
	MOVD	$0, R0
exit:
	MOVD	$94, R8			// exit_group
	SVC
	BRK
