package volume

import (
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestMessage(t *testing.T) {
	m, _ := manager(t, &objects{})
	p := podWith()
	c := &corev1.Container{Name: "c", TerminationMessagePath: "/dev/termination-log"}
	var files []string
	for attempt := range 3 {
		mt, ok, err := m.Message(p, c, attempt)
		if err != nil || !ok || mt.Target != "/dev/termination-log" || mt.ReadOnly {
			t.Fatalf("%+v %t %v", mt, ok, err)
		}
		if fi, err := os.Stat(mt.Source); err != nil || fi.Mode().Perm() != 0o666 {
			t.Fatalf("the file: %v %v", fi, err)
		}
		files = append(files, mt.Source)
		if said, err := m.Said(p.UID, "c", attempt); said != "" || err != nil {
			t.Errorf("before anything was written: %q %v", said, err)
		}
		if err := os.WriteFile(mt.Source, []byte(strings.Repeat("x", 5000)), 0o666); err != nil {
			t.Fatal(err)
		}
		if said, err := m.Said(p.UID, "c", attempt); len(said) != 4096 || err != nil {
			t.Errorf("%d bytes, %v", len(said), err)
		}
	}
	for i, f := range files {
		if _, err := os.Stat(f); (err == nil) != (i > 0) {
			t.Errorf("file of attempt %d: %v", i, err)
		}
	}
	if said, err := m.Said(p.UID, "other", 0); said != "" || err != nil {
		t.Errorf("of a container that has none: %q %v", said, err)
	}
	c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/dev/termination-log/"}}
	if _, ok, err := m.Message(p, c, 0); ok || err != nil {
		t.Errorf("beside a volume: %t %v", ok, err)
	}
}
