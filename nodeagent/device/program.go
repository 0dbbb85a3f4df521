package device

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Numbers of the kernel's struct bpf_cgroup_dev_ctx (linux/bpf.h).
const (
	kindBlock, kindChar         = 1, 2
	accessMake, accessRead      = 1, 2
	accessWrite                 = 4
	accessAll                   = accessMake | accessRead | accessWrite
	atAsked, atMajor, atMinor   = 0, 4, 8 // asked is the access in the upper half, the kind in the lower
	kindMask, accessShift       = 0xffff, 16
	asked, access, major, minor = asm.R2, asm.R3, asm.R4, asm.R5
)

// compile makes the rules a program: rule by rule, until one allows what is
// asked for.
func compile(rules []Rule) asm.Instructions {
	out := asm.Instructions{
		asm.LoadMem(asked, asm.R1, atAsked, asm.Word),
		asm.LoadMem(major, asm.R1, atMajor, asm.Word),
		asm.LoadMem(minor, asm.R1, atMinor, asm.Word),
		asm.Mov.Reg(access, asked),
		asm.RSh.Imm(access, accessShift),
		asm.And.Imm(asked, kindMask),
	}
	name := func(i int) string {
		if i == len(rules) {
			return "forbid"
		}
		return "rule" + strconv.Itoa(i)
	}
	for i, r := range rules {
		next := name(i + 1)
		first := len(out)
		out = append(out, asm.JNE.Imm(asked, kind(r.Kind), next))
		if rest := accessAll &^ bits(r.Access); rest != 0 {
			out = append(out, asm.Mov.Reg(asm.R1, access), asm.And.Imm(asm.R1, rest), asm.JNE.Imm(asm.R1, 0, next))
		}
		if r.Major != Any {
			out = append(out, asm.JNE.Imm(major, int32(r.Major), next))
		}
		if r.Minor != Any {
			out = append(out, asm.JNE.Imm(minor, int32(r.Minor), next))
		}
		out = append(out, asm.Mov.Imm(asm.R0, 1), asm.Return())
		out[first] = out[first].WithSymbol(name(i))
	}
	return append(out, asm.Mov.Imm(asm.R0, 0).WithSymbol("forbid"), asm.Return())
}

func kind(k byte) int32 {
	if k == 'b' {
		return kindBlock
	}
	return kindChar
}

func bits(access string) (out int32) {
	for letter, bit := range map[string]int32{"r": accessRead, "w": accessWrite, "m": accessMake} {
		if strings.Contains(access, letter) {
			out |= bit
		}
	}
	return out
}

// Program is a set of rules in the kernel. It is loaded once, for all groups.
type Program struct{ p *ebpf.Program }

// Load gives the rules to the kernel.
func Load(rules []Rule) (*Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "podsnap_devices", Type: ebpf.CGroupDevice, Instructions: compile(rules), License: "Apache-2.0",
	})
	if err != nil {
		return nil, fmt.Errorf("load the program that closes devices (the kernel needs CONFIG_CGROUP_BPF, and this process CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN): %w", err)
	}
	return &Program{p}, nil
}

// Attach holds the processes of a version 2 group, given as its directory, to
// the rules, and those of all groups below. That is the kernel's then: it ends
// with the group, not with this process or Close. A program that is attached
// already, here or above, goes on forbidding what it did; the same one twice is
// an error.
func (p *Program) Attach(group string) error {
	fd, err := unix.Open(group, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: group, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	err = link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: fd, Program: p.p, Attach: ebpf.AttachCGroupDevice, Flags: unix.BPF_F_ALLOW_MULTI,
	})
	if err != nil {
		return fmt.Errorf("close devices to %s: %w", group, err)
	}
	return nil
}

// Close gives the program up. Groups that it is attached to keep it.
func (p *Program) Close() error { return p.p.Close() }
