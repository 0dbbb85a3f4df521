package seccomp

import (
	"encoding/binary"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// assembler writes BPF with labels for the places that jumps lead to.
type assembler struct {
	code   []instruction
	labels []int // where each label is
}

type instruction struct {
	op      uint16
	k       uint32
	yes, no label // of a jump
	far     bool  // an unconditional jump: it reaches everywhere
	jump    bool
}

type label int

const nowhere = -1

func (a *assembler) label() label {
	a.labels = append(a.labels, nowhere)
	return label(len(a.labels) - 1)
}

func (a *assembler) set(l label) { a.labels[l] = len(a.code) }

func (a *assembler) load(at uint32) {
	a.code = append(a.code, instruction{op: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, k: at})
}

func (a *assembler) and(mask uint32) {
	a.code = append(a.code, instruction{op: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, k: mask})
}

func (a *assembler) ret(v uint32) {
	a.code = append(a.code, instruction{op: unix.BPF_RET | unix.BPF_K, k: v})
}

// jump compares with k. Conditional jumps reach 255 instructions; with far the
// way to no is taken by a second, unconditional one, and yes comes right after.
func (a *assembler) jump(op uint16, k uint32, yes, no label, far bool) {
	if far {
		near := a.label()
		a.code = append(a.code, instruction{op: unix.BPF_JMP | op | unix.BPF_K, k: k, yes: yes, no: near, jump: true})
		a.set(near)
		a.code = append(a.code, instruction{op: unix.BPF_JMP | unix.BPF_JA, yes: no, far: true})
		return
	}
	a.code = append(a.code, instruction{op: unix.BPF_JMP | op | unix.BPF_K, k: k, yes: yes, no: no, jump: true})
}

// search finds the loaded number's span by halving.
func (a *assembler) search(spans []span) {
	if len(spans) == 1 {
		a.verdict(spans[0].verdict)
		return
	}
	half := len(spans) / 2
	upper, lower := a.label(), a.label()
	a.jump(unix.BPF_JGE, spans[half].from, upper, lower, true)
	a.set(upper)
	a.search(spans[half:])
	a.set(lower)
	a.search(spans[:half])
}

func (a *assembler) verdict(v verdict) {
	for _, r := range v.rules {
		next := a.label()
		for _, c := range r.args {
			a.condition(c, next)
		}
		a.ret(r.ret)
		a.set(next)
	}
	a.ret(v.otherwise)
}

// condition goes on when an argument (64 bits, compared in two halves) is as
// it has to be, and to no otherwise.
func (a *assembler) condition(c specs.LinuxSeccompArg, no label) {
	low, high := uint32(dataArgs+8*c.Index), uint32(dataArgs+8*c.Index+4)
	value := c.Value
	yes := a.label()
	switch c.Op {
	case specs.OpMaskedEqual:
		a.half(high, uint32(c.Value>>32), uint32(c.ValueTwo>>32), no)
		a.half(low, uint32(c.Value), uint32(c.ValueTwo), no)
	case specs.OpEqualTo:
		a.half(high, 0xffffffff, uint32(value>>32), no)
		a.half(low, 0xffffffff, uint32(value), no)
	case specs.OpNotEqual:
		a.load(high)
		a.either(unix.BPF_JEQ, uint32(value>>32), a.here(), yes)
		a.load(low)
		a.either(unix.BPF_JEQ, uint32(value), no, yes)
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		a.load(high)
		a.either(unix.BPF_JGT, uint32(value>>32), yes, a.here())
		a.either(unix.BPF_JEQ, uint32(value>>32), a.here(), no)
		a.load(low)
		op := uint16(unix.BPF_JGT)
		if c.Op == specs.OpGreaterEqual {
			op = unix.BPF_JGE
		}
		a.either(op, uint32(value), yes, no)
	case specs.OpLessThan, specs.OpLessEqual: // not greater or equal, not greater
		a.load(high)
		a.either(unix.BPF_JGT, uint32(value>>32), no, a.here())
		a.either(unix.BPF_JEQ, uint32(value>>32), a.here(), yes)
		a.load(low)
		op := uint16(unix.BPF_JGE)
		if c.Op == specs.OpLessEqual {
			op = unix.BPF_JGT
		}
		a.either(op, uint32(value), no, yes)
	}
	a.set(yes)
}

// half compares one half under a mask and goes on when that holds.
func (a *assembler) half(at, mask, k uint32, no label) {
	a.load(at)
	if mask != 0xffffffff {
		a.and(mask)
	}
	a.either(unix.BPF_JEQ, k, a.here(), no)
}

// here is a label for what comes right after the next instruction.
func (a *assembler) here() label {
	l := a.label()
	a.labels[l] = len(a.code) + 1
	return l
}

func (a *assembler) either(op uint16, k uint32, yes, no label) { a.jump(op, k, yes, no, false) }

// bytes resolves the labels.
func (a *assembler) bytes() ([]byte, error) {
	const most = 4096 // the kernel's
	if len(a.code) > most {
		return nil, fmt.Errorf("the seccomp filter has %d instructions, the kernel takes %d", len(a.code), most)
	}
	out := make([]byte, 0, 8*len(a.code))
	for i, in := range a.code {
		var yes, no uint8
		k := in.k
		switch {
		case in.far:
			k = uint32(a.labels[in.yes] - i - 1)
		case in.jump:
			y, n := a.labels[in.yes]-i-1, a.labels[in.no]-i-1
			if y < 0 || n < 0 || y > 255 || n > 255 {
				return nil, fmt.Errorf("a jump of the seccomp filter is too long: %d, %d", y, n)
			}
			yes, no = uint8(y), uint8(n)
		}
		out = binary.LittleEndian.AppendUint16(out, in.op)
		out = append(out, yes, no)
		out = binary.LittleEndian.AppendUint32(out, k)
	}
	return out, nil
}
