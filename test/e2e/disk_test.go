package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
	"golang.org/x/sys/unix"
)

// A disk that is full takes no more writes, and says so; what runs goes on, and
// when there is room again everything that was accepted is there and is done.
func TestStoreDiskFull(t *testing.T) {
	t.Parallel()
	p := platform.New(t)
	store, mounted := filepath.Join(p.StateDir, "store"), false
	t.Cleanup(func() {
		if t.Failed() {
			b, err := os.ReadFile(filepath.Join(p.StateDir, "log", "store.log"))
			t.Logf("the store's log: %v\n%s", err, b)
		}
		p.Stop()
		if err := unix.Unmount(store, 0); mounted && err != nil {
			t.Errorf("unmount the small disk: %v", err)
		}
	})
	build(t, p)
	deploy(t, p, openfaas.FunctionDeployment{Service: "warm"})
	p.Terminate()
	kept := store + ".kept"
	if err := os.Rename(store, kept); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(store, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", store, "tmpfs", 0, "size=400m,mode=700"); err != nil {
		t.Fatal(err)
	}
	mounted = true
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", kept+"/.", store).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.Start()
	l := newLedger(t)
	var accepted []string
	send := func(body string) error {
		id, err := enqueue(p, "warm", body, l.URL)
		if err == nil {
			accepted = append(accepted, id)
		}
		return err
	}
	platform.Eventually(t, 20*time.Second, func() error { return send("before") })

	ballast := filepath.Join(store, "ballast")
	fill(t, ballast)
	// What is refused is refused in words, not by a platform that hangs or ends.
	large := make([]byte, 256<<10)
	var refused error
	for range 200 {
		if refused = send(string(large)); refused != nil {
			break
		}
	}
	if refused == nil {
		t.Error("calls are accepted on a disk that is full")
	}
	t.Logf("an asynchronous call: %v", refused)
	if code, body, _ := invoke(t, p, "POST", "/function/warm", "x"); code != 200 || body != "x" {
		t.Errorf("a warm call while the disk is full: %d %q", code, body)
	}
	// What is declared may still have room (etcd keeps some), but is answered soon
	// either way.
	asked := time.Now()
	_, err := p.Client.Deploy(t.Context(), openfaas.FunctionDeployment{Service: "more", Image: "probe:latest"})
	if took := time.Since(asked); took > 15*time.Second {
		t.Errorf("a deploy on a disk that is full was answered after %v: %v", took, err)
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	platform.Eventually(t, 30*time.Second, func() error { return send("after") })
	t.Logf("calls are accepted %.1f s after there is room", time.Since(begun).Seconds())
	platform.Eventually(t, 60*time.Second, func() error { return l.missing(accepted) })
	deploy(t, p, openfaas.FunctionDeployment{Service: "later"})
}

// fill takes all room that a file system has.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1<<20)
	for n := 0; ; n++ {
		if _, err := f.Write(b); errors.Is(err, unix.ENOSPC) {
			if len(b) == 1 {
				return
			}
			b = b[:len(b)/2]
			continue
		} else if err != nil {
			t.Fatal(fmt.Errorf("fill the disk: %w", err))
		}
	}
}
