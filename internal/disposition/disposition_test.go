package disposition

import (
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ignored is which of signals 32 and 33 a child ignores; who runs the test may have it
// ignore others, as nohup does.
func ignored(t *testing.T) uint64 {
	t.Helper()
	b, err := exec.Command("cat", "/proc/self/status").Output()
	if err != nil {
		t.Fatal(err)
	}
	set, err := strconv.ParseUint(regexp.MustCompile(`SigIgn:\s*(\w+)`).FindStringSubmatch(string(b))[1], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return set >> 31 & 3
}

func TestReset(t *testing.T) {
	for sig := uintptr(32); sig <= 33; sig++ {
		a := action{handler: ignore}
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&a)), 0, setSize, 0, 0); errno != 0 {
			t.Fatal(errno)
		}
	}
	if got := ignored(t); got != 3 {
		t.Fatal("a child does not inherit what is ignored: nothing is tested")
	}
	Reset()
	if got := ignored(t); got != 0 {
		t.Errorf("a child ignores %b", got)
	}
}
