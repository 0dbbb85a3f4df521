package program

import (
	"encoding/binary"
	"fmt"
	"strings"
	"syscall"
	"unicode"
)

// Text writes a program out for people, a call a line, with what its arguments
// point to. name tells what a system call is called.
func (p Program) Text(name func(nr uint64) string) string {
	u32 := func(at int) int { return int(binary.LittleEndian.Uint32(p.Image[at:])) }
	ops, body, relocs, inputs := u32(4), u32(8), u32(12), u32(16)
	m := p.Image[headerSize : headerSize+body]
	word := func(at int) uint64 { return binary.LittleEndian.Uint64(m[at:]) }
	points, given := map[int]bool{}, map[int]int{}
	for i := range relocs {
		points[u32(headerSize+body+4*i)] = true
	}
	for i := range inputs {
		at := headerSize + body + 4*relocs + 8*i
		given[u32(at)] = u32(at + 4)
	}
	filled := map[uint64]bool{} // words that an earlier result goes to
	var b strings.Builder
	for i := range ops {
		at := i * opSize
		ctl := word(at + ctlWord*8)
		if ctl&ctlFail != 0 {
			fmt.Fprintf(&b, "%s: fail with %v\n", p.Labels[i], syscall.Errno(word(at+8)))
			continue
		}
		var args []string
		last := 0
		for k := 1; k <= 6; k++ {
			w, here := word(at+8*k), at+8*k
			input, isInput := given[here]
			switch {
			case filled[uint64(here)]:
				args = append(args, "result")
			case isInput:
				args = append(args, fmt.Sprintf("input%d", input))
			case points[here]:
				args = append(args, pointed(m, points, int(w)))
			default:
				args = append(args, fmt.Sprintf("%#x", w))
				if w == 0 {
					continue
				}
			}
			last = k
		}
		fmt.Fprintf(&b, "%s: %s(%s)", p.Labels[i], name(word(at)), strings.Join(args[:last], ", "))
		if out := word(at + outWord*8); points[at+outWord*8] {
			filled[out] = true
		}
		for k := range 3 {
			if e := ctl >> (ctlErrno + 12*k) & 0xfff; e != 0 {
				fmt.Fprintf(&b, " or %v", syscall.Errno(e))
			}
		}
		if ctl&ctlAny != 0 {
			b.WriteString(" or any error")
		}
		if ctl&0xff != 0 {
			fmt.Fprintf(&b, ", then skip %d", ctl&0xff)
		}
		if ctl&ctlLeave != 0 {
			b.WriteString(", the parent leaves")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// pointed is what lies at an offset: a string, or a list of what it points to.
func pointed(m []byte, points map[int]bool, at int) string {
	if points[at] {
		var list []string
		for ; points[at]; at += 8 {
			list = append(list, pointed(m, points, int(binary.LittleEndian.Uint64(m[at:]))))
		}
		return "[" + strings.Join(list, " ") + "]"
	}
	end := at
	for end < len(m) && m[end] != 0 {
		end++
	}
	s := string(m[at:end])
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r > 127 || !unicode.IsPrint(r) }) {
		if s == "" && end < len(m) {
			return `""`
		}
		return "data"
	}
	return fmt.Sprintf("%q", s)
}
