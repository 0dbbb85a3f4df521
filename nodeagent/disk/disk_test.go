package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/test/bubble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func volume(name, node string, policy corev1.PersistentVolumeReclaimPolicy, finalizers ...string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: finalizers}}
	v.Spec.PersistentVolumeReclaimPolicy = policy
	v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: api.LocalProvisioner, VolumeHandle: name}
	v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
	}}}}
	return v
}

// A folder goes when its volume is deleted, nothing else holds that, and no pod has it;
// and only if its policy says so.
func TestKeeper(t *testing.T) {
	root := t.TempDir()
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		o := memory.New()
		disk := api.FinalizerDisk
		for _, v := range []*corev1.PersistentVolume{
			volume("mine", "n", corev1.PersistentVolumeReclaimDelete, disk),
			volume("used", "n", corev1.PersistentVolumeReclaimDelete, disk),
			volume("held", "n", corev1.PersistentVolumeReclaimDelete, disk, api.FinalizerVolume),
			volume("kept", "n", corev1.PersistentVolumeReclaimRetain, disk),
			volume("other", "m", corev1.PersistentVolumeReclaimDelete, disk),
			volume("living", "n", corev1.PersistentVolumeReclaimDelete, disk),
			volume("never", "n", corev1.PersistentVolumeReclaimDelete, disk), // has no folder
		} {
			if _, err := o.Create(ctx, v); err != nil {
				t.Fatal(err)
			}
			if v.Name == "living" {
				continue
			}
			if _, err := o.Delete(ctx, api.PersistentVolumes, "", v.Name, api.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"mine", "used", "held", "kept", "other", "living", "unknown", goneMark + "before"} {
			if err := os.MkdirAll(filepath.Join(root, name, "data"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		var busy atomic.Bool
		busy.Store(true)
		k := New(Config{Root: root, Node: "n", Objects: o, Used: func(folder string) (bool, error) { return filepath.Base(folder) == "used" && busy.Load(), nil }})
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		time.Sleep(time.Minute)
		check := func(folders, objects []string) {
			t.Helper()
			var there []string
			entries, err := os.ReadDir(root)
			for _, e := range entries {
				there = append(there, e.Name())
			}
			vs, lerr := api.Items[*corev1.PersistentVolume](ctx, o, api.PersistentVolumes, api.ListOptions{})
			var names []string
			for _, v := range vs {
				names = append(names, v.Name)
			}
			if err := errors.Join(err, lerr); err != nil || fmt.Sprint(there) != fmt.Sprint(folders) || fmt.Sprint(names) != fmt.Sprint(objects) {
				t.Errorf("folders %v, volumes %v, %v;\nwant %v, %v", there, names, err, folders, objects)
			}
		}
		check([]string{"held", "kept", "living", "other", "unknown", "used"}, []string{"held", "living", "other", "used"})
		busy.Store(false)
		time.Sleep(time.Minute)
		check([]string{"held", "kept", "living", "other", "unknown"}, []string{"held", "living", "other"})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
