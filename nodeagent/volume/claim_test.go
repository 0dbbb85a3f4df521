package volume

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
)

func claimVolume(name, claim string, readOnly bool) corev1.Volume {
	v := corev1.Volume{Name: name}
	v.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim, ReadOnly: readOnly}
	return v
}

func boundClaim(volume string, modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{UID: "claim"}}
	c.Spec.VolumeName, c.Spec.AccessModes = volume, modes
	return c
}

func diskOf(node, handle string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}}
	v.Spec.ClaimRef = &corev1.ObjectReference{UID: "claim"}
	v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: api.LocalProvisioner, VolumeHandle: handle}
	v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
	}}}}
	return v
}

// disks is a manager with a folder for volumes.
func disks(t *testing.T, o *objects) *Manager {
	t.Helper()
	m, _ := manager(t, o)
	m.c.Disks, m.c.Node = t.TempDir(), "n1"
	return m
}

func TestClaim(t *testing.T) {
	o := &objects{all: map[string]api.Object{
		"persistentvolumeclaims/c": boundClaim("v", corev1.ReadWriteOnce), "persistentvolumes/v": diskOf("n1", "pvc-1"),
	}}
	m := disks(t, o)
	p := podWith(claimVolume("data", "c", false))
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}, {Name: "data", MountPath: "/sub", SubPath: "a/b"}, {Name: "data", MountPath: "/ro", ReadOnly: true}}
	if err := m.Setup(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(m.c.Disks, "pvc-1")
	if fi, err := os.Stat(folder); err != nil || fi.Mode().Perm() != 0o777 {
		t.Fatalf("the folder is %v, %v; want one that everybody may write to", fi, err)
	}
	mounts, err := m.Mounts(p, &p.Spec.Containers[0], nil, "")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		source   string
		readOnly bool
	}{{folder, false}, {filepath.Join(folder, "a/b"), false}, {folder, true}} {
		if mounts[i].Source != want.source || mounts[i].ReadOnly != want.readOnly {
			t.Errorf("mount %d is %+v, want %+v", i, mounts[i], want)
		}
	}
	if used, err := m.Uses(folder); err != nil || !used {
		t.Errorf("the folder is in use: %v, %v", used, err)
	}
	if err := os.WriteFile(filepath.Join(folder, "file"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Without the API server a container starts anew all the same.
	o.down = true
	if err := m.Setup(t.Context(), p); err != nil {
		t.Errorf("again, during an outage: %v", err)
	}
	o.down = false
	if err := m.Remove(p.UID); err != nil {
		t.Fatal(err)
	}
	if used, err := m.Uses(folder); err != nil || used {
		t.Errorf("after the pod, the folder is in use: %v, %v", used, err)
	}
	next := podWith(claimVolume("data", "c", true))
	next.UID, next.Spec.SecurityContext = "u2", &corev1.PodSecurityContext{FSGroup: new(int64(os.Getgid()))}
	next.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	if err := m.Setup(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(folder, "file")); err != nil || string(b) != "kept" {
		t.Errorf("what the pod has left: %q, %v", b, err)
	}
	if mounts, err := m.Mounts(next, &next.Spec.Containers[0], nil, ""); err != nil || !mounts[0].ReadOnly {
		t.Errorf("a claim that is asked for read-only is mounted %+v, %v", mounts, err)
	}
}

func TestClaimThatCannotBeHad(t *testing.T) {
	hostPath := func(path string, kind corev1.HostPathType) *corev1.PersistentVolume {
		v := diskOf("n1", "")
		v.Spec.CSI, v.Spec.HostPath = nil, &corev1.HostPathVolumeSource{Path: path, Type: &kind}
		return v
	}
	here, file := t.TempDir(), filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	other := diskOf("n1", "pvc-1")
	other.Spec.ClaimRef.UID = "of another claim"
	for name, c := range map[string]struct {
		claim  *corev1.PersistentVolumeClaim
		volume *corev1.PersistentVolume
		want   string // "" is that it can
	}{
		"no claim":               {nil, nil, `persistentvolumeclaim "c" not found`},
		"no volume yet":          {boundClaim(""), nil, "is not bound to a volume yet"},
		"a volume that is gone":  {boundClaim("v"), nil, `persistentvolume "v" not found`},
		"somebody else's":        {boundClaim("v"), other, "is not, or not any more"},
		"of another node":        {boundClaim("v"), diskOf("n2", "pvc-1"), `is on node "n2"`},
		"a handle that leads up": {boundClaim("v"), diskOf("n1", "../x"), "can't name a folder"},
		"a hidden handle":        {boundClaim("v"), diskOf("n1", ".gone-x"), "can't name a folder"},
		"a folder":               {boundClaim("v"), hostPath(here, ""), ""},
		"no folder":              {boundClaim("v"), hostPath(here+"/missing", ""), "there is no"},
		"one that is made":       {boundClaim("v"), hostPath(here+"/made", corev1.HostPathDirectoryOrCreate), ""},
		"a file":                 {boundClaim("v"), hostPath(file, ""), "is no folder"},
	} {
		t.Run(name, func(t *testing.T) {
			o := &objects{all: map[string]api.Object{}}
			if c.claim != nil {
				o.all["persistentvolumeclaims/c"] = c.claim
			}
			if c.volume != nil {
				o.all["persistentvolumes/v"] = c.volume
			}
			err := disks(t, o).Setup(t.Context(), podWith(claimVolume("data", "c", false)))
			var ce *ConfigError
			if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &ce) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestReadOnlyClaim(t *testing.T) {
	m := disks(t, &objects{all: map[string]api.Object{
		"persistentvolumeclaims/c": boundClaim("v", corev1.ReadOnlyMany), "persistentvolumes/v": diskOf("n1", "pvc-1"),
	}})
	p := podWith(claimVolume("data", "c", false))
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	if err := m.Setup(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if mounts, err := m.Mounts(p, &p.Spec.Containers[0], nil, ""); err != nil || !mounts[0].ReadOnly {
		t.Errorf("a claim to read only is mounted %+v, %v", mounts, err)
	}
}
