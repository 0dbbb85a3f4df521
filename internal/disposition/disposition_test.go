package disposition

import (
	"os/exec"
	"regexp"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ignored is what a child sees of its ignored signals.
func ignored(t *testing.T) string {
	t.Helper()
	b, err := exec.Command("cat", "/proc/self/status").Output()
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`SigIgn:\s*(\w+)`).FindStringSubmatch(string(b))[1]
}

func TestReset(t *testing.T) {
	for sig := uintptr(32); sig <= 33; sig++ {
		a := action{handler: ignore}
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&a)), 0, setSize, 0, 0); errno != 0 {
			t.Fatal(errno)
		}
	}
	if got := ignored(t); got == "0000000000000000" {
		t.Fatal("a child does not inherit what is ignored: nothing is tested")
	}
	Reset()
	if got := ignored(t); got != "0000000000000000" {
		t.Errorf("a child ignores %s", got)
	}
}
