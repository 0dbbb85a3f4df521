package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLayersStayInside(t *testing.T) {
	top, low := t.TempDir(), t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	for _, err := range []error{
		os.WriteFile(secret, []byte("host"), 0o644),
		os.Mkdir(filepath.Join(top, "etc"), 0o755), os.Mkdir(filepath.Join(low, "etc"), 0o755),
		os.Symlink(secret, filepath.Join(top, "etc", "passwd")),
		os.WriteFile(filepath.Join(low, "etc", "group"), []byte("g"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	l := layers{top, low}
	if b, err := l.readEtc("passwd"); err == nil || strings.Contains(string(b), "host") {
		t.Errorf("a link out of the image: got %q, %v", b, err)
	}
	if b, err := l.readEtc("group"); err != nil || string(b) != "g" {
		t.Errorf("from the lower layer: got %q, %v", b, err)
	}
	if b, err := l.readEtc("none"); err != nil || b != nil {
		t.Errorf("nowhere: got %q, %v", b, err)
	}
}

func TestContainerdConfigRefusesLongPaths(t *testing.T) {
	if err := (Containerd{Dir: filepath.Join(t.TempDir(), strings.Repeat("x", 100))}).WriteConfig(); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("got %v", err)
	}
	if err := (Containerd{Dir: "relative"}).WriteConfig(); err == nil {
		t.Error("a relative path: got no error")
	}
}

func TestOldRunc(t *testing.T) {
	for version, want := range map[string]bool{
		"1.1.5+ds1": true, "1.2.8": true, "1.3.5": true, "1.3.6": false, "1.4.2": true, "1.4.3": false, "1.5.0": false, "1.5.0-rc.1": false, "2.0.0": false, "x": false,
	} {
		if got := oldRunc(version); got != want {
			t.Errorf("%s: got %v, want %v", version, got, want)
		}
	}
}
