// Package program is a list of raw system calls as data: built by a pure
// Builder in one process, carried as bytes, and run by Image.Run in a child
// that never executes an instruction of Go between its birth and its execve.
//
// That is what makes it safe to make the child share the caller's memory
// (CLONE_VM|CLONE_VFORK): the interpreter is a few dozen lines of assembly that
// keep everything in registers, need no stack and know nothing of the Go
// runtime. See docs/design/003-fast-runtime.md.
package program

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
)

// One call is ten words: its number, six arguments, where its result goes (an
// address or 0), control, and one that is not used.
const (
	opWords = 10
	opSize  = opWords * 8
	outWord = 7
	ctlWord = 8
)

// Control of a call, as the assembly knows it.
const (
	ctlErrno = 8       // three fields of 12 bits from here: errors that do not matter
	ctlFail  = 1 << 60 // no call: the program fails here with the error in the first argument
	ctlAny   = 1 << 61 // no error matters
	ctlLeave = 1 << 62 // a result that is not 0 ends the process: the parent of a fork
)

const (
	headerSize = 5 * 4
	magic      = 0x31474f50 // "POG1"
	maxOps     = 4096
	maxSize    = 8 << 20 // arguments and environment are the bulk
)

// Arg is an argument of a call.
type Arg struct {
	kind  argKind
	value uint64
	data  []byte
	refs  []Arg
}

type argKind uint8

const (
	argInt argKind = iota
	argData
	argRefs
	argInput
	argInline
)

// Int is a number: a flag, a size, an open file.
func Int[T ~int | ~int32 | ~uint32 | ~int64 | ~uint64 | ~uintptr](v T) Arg {
	return Arg{value: uint64(v)}
}

// Text is the address of a string that ends with a zero byte.
func Text(s string) Arg { return Arg{kind: argData, data: append([]byte(s), 0)} }

// Bytes is the address of a copy of b.
func Bytes(b []byte) Arg { return Arg{kind: argData, data: b} }

// Texts is the address of a zero-ended list of addresses of strings, such as
// execve's argument list.
func Texts(list []string) Arg {
	a := Arg{kind: argRefs}
	for _, s := range list {
		a.refs = append(a.refs, Text(s))
	}
	a.refs = append(a.refs, Int(0))
	return a
}

// Words is the address of a structure of words.
func Words(words ...Arg) Arg { return Arg{kind: argRefs, refs: words} }

// Input is a value that is only known where the program runs: the i-th of
// Image.Run's inputs.
func Input(i int) Arg { return Arg{kind: argInput, value: uint64(i)} }

// Step is one call of a program under construction.
type Step struct {
	b *Builder
	i int
}

// Builder makes a program. The zero value is an empty one.
type Builder struct {
	ops    [][opWords]uint64
	data   []byte
	relocs []uint32          // words that hold an offset of the image and become addresses
	inputs []input           // words that an input is written to
	labels []string          // what each call is, for errors
	seen   map[string]uint64 // offset of data that is there already
	// data lies behind the calls, whose number is not known yet: offsets into
	// it are noted here and shifted in the end.
	late []uint32
}

type input struct{ at, index uint32 }

// Call adds a system call. The label says what it does, in the words of an
// error message.
func (b *Builder) Call(label string, nr uintptr, args ...Arg) Step {
	i := len(b.ops)
	b.ops = append(b.ops, [opWords]uint64{uint64(nr)})
	b.labels = append(b.labels, label)
	for k, a := range args {
		at := uint32(i*opSize + (1+k)*8)
		switch a.kind {
		case argInt:
			b.ops[i][1+k] = a.value
		case argInput:
			b.inputs = append(b.inputs, input{at, uint32(a.value)})
		default:
			b.ops[i][1+k] = b.place(a)
			b.relocs = append(b.relocs, at)
			b.late = append(b.late, at)
		}
	}
	return Step{b, i}
}

// Fail adds an end: a program that comes here fails with the error.
func (b *Builder) Fail(label string, e syscall.Errno) {
	s := b.Call(label, 0, Int(uintptr(e)))
	b.ops[s.i][ctlWord] |= ctlFail
}

// place puts an argument's data into the image and answers with its offset in
// the data.
func (b *Builder) place(a Arg) uint64 {
	if a.kind == argData {
		if b.seen == nil {
			b.seen = map[string]uint64{}
		}
		if at, ok := b.seen[string(a.data)]; ok {
			return at
		}
		at := b.reserve(len(a.data))
		copy(b.data[at:], a.data)
		b.seen[string(a.data)] = at
		return at
	}
	at := b.reserve(8 * len(a.refs))
	for i, r := range a.refs {
		word := r.value
		if r.kind != argInt {
			word = b.place(r)
			b.relocs = append(b.relocs, dataBit|uint32(at)+uint32(8*i))
			b.late = append(b.late, dataBit|uint32(at)+uint32(8*i))
		}
		binary.LittleEndian.PutUint64(b.data[at+uint64(8*i):], word)
	}
	return at
}

// dataBit marks a place in the data while the calls' size is not known.
const dataBit = 1 << 31

func (b *Builder) reserve(n int) uint64 {
	for len(b.data)%8 != 0 {
		b.data = append(b.data, 0)
	}
	at := uint64(len(b.data))
	b.data = append(b.data, make([]byte, n)...)
	return at
}

// Allow has the program go on after these errors, three at most.
func (s Step) Allow(errs ...syscall.Errno) Step {
	for i, e := range errs[:min(len(errs), 3)] {
		s.b.ops[s.i][ctlWord] |= uint64(e&0xfff) << (ctlErrno + 12*i)
	}
	return s
}

// AllowAny has the program go on whatever comes.
func (s Step) AllowAny() Step {
	s.b.ops[s.i][ctlWord] |= ctlAny
	return s
}

// Skip jumps over the next n calls when this one succeeds.
func (s Step) Skip(n uint8) Step {
	s.b.ops[s.i][ctlWord] |= uint64(n)
	return s
}

// Leave ends the process, with 0, when the result is not 0.
func (s Step) Leave() Step {
	s.b.ops[s.i][ctlWord] |= ctlLeave
	return s
}

// Into has this call's result be the k-th argument (from 0) of a later call.
func (s Step) Into(to Step, k int) Step {
	at := uint32(s.i*opSize + outWord*8)
	s.b.ops[s.i][outWord] = uint64(to.i*opSize + (1+k)*8)
	s.b.relocs = append(s.b.relocs, at)
	return s
}

// Program is a built program with what is needed to explain its errors.
type Program struct {
	Image  []byte
	Labels []string // of each call
	Flags  uint64   // of clone3, for the child that runs it
}

// Build ends the construction.
func (b *Builder) Build() (Program, error) {
	opsSize := uint32(len(b.ops) * opSize)
	resolve := func(at uint32) uint32 {
		if at&dataBit != 0 {
			return opsSize + at&^dataBit
		}
		return at
	}
	body := make([]byte, int(opsSize)+len(b.data))
	for i, op := range b.ops {
		for k, w := range op {
			binary.LittleEndian.PutUint64(body[i*opSize+8*k:], w)
		}
	}
	copy(body[opsSize:], b.data)
	for _, at := range b.late { // an offset into the data becomes one into the body
		p := body[resolve(at):]
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)+uint64(opsSize))
	}
	out := make([]byte, headerSize, headerSize+len(body)+4*len(b.relocs)+8*len(b.inputs))
	for i, v := range []int{magic, len(b.ops), len(body), len(b.relocs), len(b.inputs)} {
		binary.LittleEndian.PutUint32(out[4*i:], uint32(v))
	}
	out = append(out, body...)
	for _, at := range b.relocs {
		out = binary.LittleEndian.AppendUint32(out, resolve(at))
	}
	for _, in := range b.inputs {
		out = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(out, in.at), in.index)
	}
	if len(b.ops) == 0 || len(b.ops) > maxOps || len(out) > maxSize {
		return Program{}, fmt.Errorf("program of %d calls and %d bytes: more than %d calls or %d bytes cannot be run", len(b.ops), len(out), maxOps, maxSize)
	}
	return Program{Image: out, Labels: b.labels}, nil
}

// Fault is a program that failed: at which call, and how.
type Fault struct {
	Call  int // index
	Errno syscall.Errno
}

func (f *Fault) Error() string { return fmt.Sprintf("call %d: %v", f.Call, f.Errno) }

// ErrKilled is a child that was killed before its program had ended.
var ErrKilled = errors.New("killed while it was being set up")

// Explain puts a fault into words.
func (p Program) Explain(f *Fault) error {
	if f.Call < 0 || f.Call >= len(p.Labels) {
		return fmt.Errorf("call %d: %w", f.Call, f.Errno)
	}
	return fmt.Errorf("%s: %w", p.Labels[f.Call], f.Errno)
}

// Len is the number of calls so far.
func (b *Builder) Len() int { return len(b.ops) }
