package fast

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// What counts as written to, of what an overlay has in its upper directory.
func TestUntouched(t *testing.T) {
	mkdir := func(mode os.FileMode, elem ...string) string {
		t.Helper()
		d := filepath.Join(elem...)
		if err := os.Mkdir(d, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, mode); err != nil { // past the umask
			t.Fatal(err)
		}
		return d
	}
	for _, c := range []struct {
		name string
		do   func(upper string)
		want bool
	}{
		{"nothing", func(string) {}, true},
		{"mount point of proc", func(u string) { mkdir(0o755, u, "proc") }, true},
		{"something in it", func(u string) { mkdir(0o755, mkdir(0o755, u, "proc"), "x") }, false},
		{"a folder of the image", func(u string) { mkdir(os.ModeSticky|0o777, u, "tmp") }, true},
		{"with another mode", func(u string) { mkdir(0o777, u, "tmp") }, false},
		{"with a file", func(u string) {
			if err := os.WriteFile(filepath.Join(mkdir(os.ModeSticky|0o777, u, "tmp"), "x"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"a folder that is new", func(u string) { mkdir(0o755, u, "new") }, false},
		{"the root's mode", func(u string) {
			if err := os.Chmod(u, 0o700); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"something removed", func(u string) {
			if err := unix.Mknod(filepath.Join(u, "gone"), unix.S_IFCHR, 0); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"a folder emptied", func(u string) {
			if err := unix.Setxattr(mkdir(os.ModeSticky|0o777, u, "tmp"), "trusted.overlay.opaque", []byte("y"), 0); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"an attribute", func(u string) {
			if err := unix.Setxattr(u, "trusted.mine", []byte("y"), 0); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			layer, upper := mkdir(0o755, dir, "layer"), mkdir(0o755, dir, "upper")
			mkdir(os.ModeSticky|0o777, layer, "tmp")
			c.do(upper)
			if got := untouched(upper, []string{layer}); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// A function's replica gets the root file system of an earlier one when that
// was left as it was, and a new one otherwise; another function's never.
func TestRootsAreUsedAgain(t *testing.T) {
	n := newNode(t)
	const plainRef = "podsnap.test/plain:1" // every start writes to the other one: it has a link for /etc/resolv.conf
	_, probe, _ := build(t)
	img := testImage(t, v1.Config{Entrypoint: []string{"/bin/probe"}}, layer(t, file{name: "bin/", mode: 0o755}, file{name: "bin/probe", body: probe, mode: 0o755}))
	if _, err := n.engine.Images().Import(t.Context(), archive(t, plainRef, img)); err != nil {
		t.Fatal(err)
	}
	i := 0
	one := func(owner string, args ...string) (root, said string) {
		t.Helper()
		i++
		name := fmt.Sprintf("r%d", i)
		sb, err := n.StartSandbox(t.Context(), runtime.SandboxSpec{UID: types.UID("uid-" + name), Namespace: "default", Name: name, Hostname: name, Owner: owner})
		if err != nil {
			t.Fatal(err)
		}
		s := n.spec(sb, args...)
		s.Image = plainRef
		s.Security = runtime.Security{User: new(int64(0))}
		ch := n.events()
		c := n.start(s)
		n.mu.Lock()
		root = n.containers[c.ID].root.id
		n.mu.Unlock()
		n.exit(ch, c.ID)
		said = n.log(s.LogPath)
		if err := n.RemoveSandbox(t.Context(), sb.ID); err != nil {
			t.Fatal(err)
		}
		n.roots.wait()
		return root, said
	}
	// The oldest one that is ready is taken: with what is made ahead it may take a
	// few rounds.
	seen := map[string]bool{}
	again := false
	for range 20 {
		if again {
			break
		}
		root, _ := one("a", "cat")
		again = again || seen[root]
		seen[root] = true
	}
	if !again {
		t.Errorf("no root file system was used again: %v", seen)
	}
	used := map[string]bool{}
	for range 3 {
		root, _ := one("a", "write", "/kept")
		if used[root] {
			t.Error("one that was written to was used again")
		}
		used[root] = true
	}
	for range 4 {
		if _, said := one("a", "read", "/kept"); !strings.Contains(said, "no such file") {
			t.Errorf("a file of another replica is there: %s", said)
		}
	}
	if root, _ := one("b", "cat"); seen[root] || used[root] {
		t.Error("another function's was used")
	}
	for range 2 {
		if root, _ := one("", "cat"); seen[root] || used[root] {
			t.Error("a pod of no function got a used one")
		}
	}
	n.roots.mu.Lock()
	defer n.roots.mu.Unlock()
	if len(n.roots.byKey) != 2 {
		t.Errorf("%d kinds are kept, want those of a and b", len(n.roots.byKey))
	}
}
