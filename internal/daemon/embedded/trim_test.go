package embedded

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestProgram(t *testing.T) {
	const self = "/usr/local/bin/faas"
	for line, size := range map[string]uintptr{
		"00400000-02a00000 r-xp 00000000 fe:00 131 /usr/local/bin/faas":           0x2600000,
		"02a00000-05000000 r--p 02600000 fe:00 131 /usr/local/bin/faas":           0x2600000,
		"05000000-05200000 rw-p 04c00000 fe:00 131 /usr/local/bin/faas":           0, // data, changed
		"7f0000000000-7f0000001000 r-xp 00000000 fe:00 9 /usr/lib/libc.so.6":      0, // another file
		"7f0000000000-7f0000001000 r--p 00000000 00:00 0 ":                        0,
		"7f0000000000-7f0000001000 r-xp 00000000 00:00 0 [vdso]":                  0,
		"00400000-02a00000 r-xp 00000000 fe:00 131 /usr/local/bin/faas (deleted)": 0,
		"": 0,
	} {
		if _, got, ok := program(line, self); got != size || ok != (size > 0) {
			t.Errorf("%q: %#x %v, want %#x", line, got, ok, size)
		}
	}
}

// A program that has given its pages back has fewer, and goes on.
func TestTrim(t *testing.T) {
	before := filePages(t)
	Trim()
	if after := filePages(t); after > before*3/4 {
		t.Errorf("%d kB of the program were there, and still %d", before, after)
	}
	Trim()
}

// filePages is how many kB of files a process has in memory.
func filePages(t *testing.T) (kB int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "RssFile:")
	if _, err := fmt.Sscan(rest, &kB); err != nil {
		t.Fatal(err)
	}
	return kB
}
