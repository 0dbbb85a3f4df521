// Package seccomp turns an OCI system call profile into the filter program
// that the kernel runs. It is pure.
//
// The kernel runs a new filter once for each system call number, to note which
// are always allowed; so the numbers are searched for by halving, and numbers
// side by side that fare alike are one case. A rule by rule chain, as others
// make it, costs a start several times as much.
package seccomp

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What a filter answers with.
const (
	retKillProcess = 0x80000000
	retKillThread  = 0x00000000
	retTrap        = 0x00030000
	retErrno       = 0x00050000
	retTrace       = 0x7ff00000
	retLog         = 0x7ffc0000
	retAllow       = 0x7fff0000
)

// Places in the kernel's struct seccomp_data.
const (
	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16
)

// kernels lists, for each architecture of ours, its system call tables: the
// native one and those that the same kernel serves to other programs.
func kernels(goarch string) map[specs.Arch]*arch.Info {
	switch goarch {
	case "amd64":
		return map[specs.Arch]*arch.Info{specs.ArchX86_64: arch.X86_64, specs.ArchX86: arch.I386}
	case "arm64":
		return map[specs.Arch]*arch.Info{specs.ArchAARCH64: arch.AARCH64, specs.ArchARM: arch.ARM}
	}
	return nil
}

// Compile makes the filter of a profile, as an array of struct sock_filter (8
// bytes each, little endian), for a machine of Go's architecture name.
//
// Where it cannot know it says no: a call of an architecture that the profile
// does not name kills the process, one with a number above all those that the
// profile allows is ENOSYS, so that a C library falls back to an older call
// (runc does both alike). The x32 numbers of amd64 are among the latter.
func Compile(p *specs.LinuxSeccomp, goarch string) ([]byte, error) {
	tables := kernels(goarch)
	if tables == nil {
		return nil, fmt.Errorf("no table of system calls for %s", goarch)
	}
	if len(p.Flags) > 0 || p.ListenerPath != "" {
		return nil, errors.New("flags and listeners of seccomp profiles are not supported")
	}
	var a assembler
	a.load(dataArch)
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		if !slices.Contains(p.Architectures, name) {
			continue
		}
		cases, err := decide(p, tables[name])
		if err != nil {
			return nil, err
		}
		other := a.label()
		ours := a.label()
		a.jump(unix.BPF_JEQ, uint32(tables[name].ID), ours, other, true)
		a.set(ours)
		a.load(dataNumber)
		a.search(cases)
		a.set(other)
	}
	a.ret(retKillProcess)
	return a.bytes()
}

// verdict is what becomes of a call: the first rule whose conditions all hold
// says, or else otherwise.
type verdict struct {
	rules     []rule
	otherwise uint32
	final     bool // while it is made: no other rule matters
}

type rule struct {
	args []specs.LinuxSeccompArg
	ret  uint32
}

func (v verdict) same(o verdict) bool {
	return v.otherwise == o.otherwise && slices.EqualFunc(v.rules, o.rules, func(a, b rule) bool {
		return a.ret == b.ret && slices.Equal(a.args, b.args)
	})
}

// span is all numbers from one on, up to the next span's.
type span struct {
	from uint32
	verdict
}

// decide sorts the profile by system call number. The spans cover all numbers.
func decide(p *specs.LinuxSeccomp, table *arch.Info) ([]span, error) {
	otherwise, err := answer(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	byNumber := map[uint32]verdict{}
	for _, s := range p.Syscalls {
		ret, err := answer(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, err
		}
		for _, a := range s.Args {
			if err := check(a); err != nil {
				return nil, err
			}
		}
		for _, name := range s.Names {
			n, ok := table.SyscallNames[name]
			if !ok {
				continue // of another architecture, or newer than the table
			}
			v, known := byNumber[uint32(n)]
			if !known {
				v.otherwise = otherwise
			}
			switch {
			case v.final: // an earlier rule says all
			case len(s.Args) == 0:
				v.otherwise, v.final = ret, true
			default:
				v.rules = append(slices.Clone(v.rules), rule{s.Args, ret})
			}
			byNumber[uint32(n)] = v
		}
	}
	known := slices.Sorted(maps.Keys(byNumber))
	unknown := verdict{otherwise: otherwise}
	var spans []span
	add := func(from uint32, v verdict) {
		if len(spans) == 0 || !spans[len(spans)-1].same(v) {
			spans = append(spans, span{from, v})
		}
	}
	next := uint32(0)
	for _, n := range known {
		if n > next {
			add(next, unknown)
		}
		add(n, byNumber[n])
		next = n + 1
	}
	above := unknown
	if len(known) > 0 && otherwise&0xffff0000 == retErrno {
		above.otherwise = retErrno | uint32(unix.ENOSYS)
	}
	add(next, above)
	return spans, nil
}

func answer(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	number := uint32(unix.EPERM)
	if errno != nil {
		number = min(uint32(*errno), 4095)
	}
	switch a {
	case specs.ActAllow:
		return retAllow, nil
	case specs.ActErrno:
		return retErrno | number, nil
	case specs.ActKillProcess:
		return retKillProcess, nil
	case specs.ActKill, specs.ActKillThread:
		return retKillThread, nil
	case specs.ActTrap:
		return retTrap, nil
	case specs.ActLog:
		return retLog, nil
	case specs.ActTrace:
		return retTrace | number, nil
	default: // ActNotify needs somebody who listens
	}
	return 0, fmt.Errorf("seccomp action %q is not supported", a)
}

func check(a specs.LinuxSeccompArg) error {
	if a.Index > 5 {
		return fmt.Errorf("seccomp condition on argument %d: there are six", a.Index)
	}
	switch a.Op {
	case specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual:
		return nil
	}
	return fmt.Errorf("seccomp comparison %q is not supported", a.Op)
}
