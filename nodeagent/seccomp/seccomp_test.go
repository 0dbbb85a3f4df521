package seccomp

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	mobyseccomp "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// call is the kernel's struct seccomp_data.
type call struct {
	nr, arch uint32
	args     [6]uint64
}

// simulate runs a filter as the kernel does.
func simulate(t interface{ Fatalf(string, ...any) }, filter []byte, c call) uint32 {
	var data [64]byte
	binary.LittleEndian.PutUint32(data[0:], c.nr)
	binary.LittleEndian.PutUint32(data[4:], c.arch)
	for i, a := range c.args {
		binary.LittleEndian.PutUint64(data[16+8*i:], a)
	}
	var acc uint32
	for pc := 0; pc < len(filter)/8; pc++ {
		in := filter[8*pc:]
		op, yes, no, k := binary.LittleEndian.Uint16(in), int(in[2]), int(in[3]), binary.LittleEndian.Uint32(in[4:])
		choose := func(b bool) {
			if b {
				pc += yes
			} else {
				pc += no
			}
		}
		switch op {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.LittleEndian.Uint32(data[k:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= k
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			choose(acc == k)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			choose(acc > k)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			choose(acc >= k)
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(k)
		case unix.BPF_RET | unix.BPF_K:
			return k
		default:
			t.Fatalf("instruction %#x", op)
		}
	}
	t.Fatalf("the filter has no end")
	return 0
}

// want reads the profile itself, rule by rule.
func want(p *specs.LinuxSeccomp, name string, c call, nrMax uint32) uint32 {
	holds := func(a specs.LinuxSeccompArg) bool {
		v := c.args[a.Index]
		switch a.Op {
		case specs.OpEqualTo:
			return v == a.Value
		case specs.OpNotEqual:
			return v != a.Value
		case specs.OpLessThan:
			return v < a.Value
		case specs.OpLessEqual:
			return v <= a.Value
		case specs.OpGreaterThan:
			return v > a.Value
		case specs.OpGreaterEqual:
			return v >= a.Value
		case specs.OpMaskedEqual:
			return v&a.Value == a.ValueTwo
		}
		return false
	}
	ret := func(a specs.LinuxSeccompAction, e *uint) uint32 {
		v, err := answer(a, e)
		if err != nil {
			panic(err)
		}
		return v
	}
	for _, s := range p.Syscalls {
		all := slices.Contains(s.Names, name)
		for _, a := range s.Args {
			all = all && holds(a)
		}
		if all {
			return ret(s.Action, s.ErrnoRet)
		}
	}
	if c.nr > nrMax && p.DefaultAction == specs.ActErrno {
		return retErrno | uint32(unix.ENOSYS)
	}
	return ret(p.DefaultAction, p.DefaultErrnoRet)
}

// highest is the highest number that the profile knows; without any it knows
// nothing of numbers.
func highest(p *specs.LinuxSeccomp, table *arch.Info) uint32 {
	most, some := uint32(0), false
	for _, s := range p.Syscalls {
		for _, n := range s.Names {
			if nr, ok := table.SyscallNames[n]; ok {
				most, some = max(most, uint32(nr)), true
			}
		}
	}
	if !some {
		return ^uint32(0)
	}
	return most
}

func profile(t *testing.T, caps ...string) *specs.LinuxSeccomp {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("the default profile is made for the machine's own architecture")
	}
	p, err := mobyseccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}, Linux: &specs.Linux{}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The default profile, for every system call of both tables and for arguments
// around every value that a rule names.
func TestDefaultProfile(t *testing.T) {
	for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN"}, {"CAP_SYS_PTRACE", "CAP_NET_BIND_SERVICE"}} {
		p := profile(t, caps...)
		filter, err := Compile(p, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%v: %d instructions", caps, len(filter)/8)
		values := []uint64{0, 1, 1 << 32, ^uint64(0)}
		for _, s := range p.Syscalls {
			for _, a := range s.Args {
				for _, v := range []uint64{a.Value, a.ValueTwo} {
					values = append(values, v, v-1, v+1, v|1<<40)
				}
			}
		}
		seen := 0
		for _, table := range []*arch.Info{arch.X86_64, arch.I386} {
			most := highest(p, table)
			for nr := range uint32(600) {
				name := table.SyscallNumbers[int(nr)]
				for _, v := range values {
					c := call{nr: nr, arch: uint32(table.ID), args: [6]uint64{v, 0, v}}
					if got, w := simulate(t, filter, c), want(p, name, c, most); got != w {
						t.Fatalf("%s %s (%d), argument %#x: got %#x, want %#x", table.Name, name, nr, v, got, w)
					}
					seen++
				}
			}
		}
		for what, c := range map[string]call{
			"x32":                    {nr: 0x40000000 + 1, arch: uint32(arch.X86_64.ID)},
			"a number of the future": {nr: 900, arch: uint32(arch.X86_64.ID)},
		} {
			if got := simulate(t, filter, c); got != retErrno|uint32(unix.ENOSYS) {
				t.Errorf("%s: got %#x, want ENOSYS", what, got)
			}
		}
		for _, other := range []*arch.Info{arch.AARCH64, arch.ARM, arch.S390X} {
			if got := simulate(t, filter, call{nr: 1, arch: uint32(other.ID)}); got != retKillProcess {
				t.Errorf("%s: got %#x, want the process killed", other.Name, got)
			}
		}
		if seen == 0 {
			t.Error("nothing was compared")
		}
	}
}

// Profiles of all kinds, against the reading of the profile.
func TestAnyProfile(t *testing.T) {
	names := []string{"read", "write", "open", "clone", "socket", "personality", "clone3", "futex", "mseal"}
	ops := []specs.LinuxSeccompOperator{
		specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual,
	}
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActLog, specs.ActTrap}
	value := rapid.OneOf(rapid.SampledFrom([]uint64{0, 1, 2, 38, 1 << 31, 1 << 32, 1<<32 + 1, ^uint64(0)}), rapid.Uint64())
	rapid.Check(t, func(t *rapid.T) {
		p := &specs.LinuxSeccomp{
			DefaultAction: rapid.SampledFrom(actions).Draw(t, "default"), Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86},
		}
		for range rapid.IntRange(0, 6).Draw(t, "rules") {
			s := specs.LinuxSyscall{
				Names: rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 4, rapid.ID).Draw(t, "names"), Action: rapid.SampledFrom(actions).Draw(t, "action"),
			}
			if s.Action == specs.ActErrno {
				s.ErrnoRet = new(rapid.UintRange(1, 100).Draw(t, "errno"))
			}
			for range rapid.IntRange(0, 3).Draw(t, "conditions") {
				s.Args = append(s.Args, specs.LinuxSeccompArg{
					Index: rapid.UintRange(0, 5).Draw(t, "index"), Op: rapid.SampledFrom(ops).Draw(t, "op"),
					Value: value.Draw(t, "value"), ValueTwo: value.Draw(t, "second"),
				})
			}
			p.Syscalls = append(p.Syscalls, s)
		}
		filter, err := Compile(p, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		table := arch.X86_64
		if rapid.Bool().Draw(t, "32 bits") {
			table = arch.I386
		}
		c := call{arch: uint32(table.ID)}
		name := rapid.SampledFrom(names).Draw(t, "name")
		c.nr = uint32(table.SyscallNames[name])
		for i := range c.args {
			c.args[i] = value.Draw(t, fmt.Sprintf("argument %d", i))
		}
		if got, w := simulate(t, filter, c), want(p, name, c, highest(p, table)); got != w {
			t.Fatalf("%s: got %#x, want %#x", name, got, w)
		}
	})
}

func TestRefused(t *testing.T) {
	base := specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64}}
	for name, change := range map[string]func(*specs.LinuxSeccomp){
		"notify":   func(p *specs.LinuxSeccomp) { p.DefaultAction = specs.ActNotify },
		"listener": func(p *specs.LinuxSeccomp) { p.ListenerPath = "/x" },
		"index": func(p *specs.LinuxSeccomp) {
			p.Syscalls = []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}}
		},
		"operator": func(p *specs.LinuxSeccomp) {
			p.Syscalls = []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: "x"}}}}
		},
	} {
		p := base
		change(&p)
		if _, err := Compile(&p, "amd64"); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if _, err := Compile(&base, "riscv64"); err == nil {
		t.Error("an architecture without a table: got no error")
	}
	// An architecture that the profile does not name has no rights at all.
	filter, err := Compile(&base, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	if got := simulate(t, filter, call{nr: 1, arch: uint32(arch.I386.ID)}); got != retKillProcess {
		t.Errorf("got %#x, want the process killed", got)
	}
}
