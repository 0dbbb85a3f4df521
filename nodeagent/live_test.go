package nodeagent_test

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
)

// What is mounted follows its objects and the pod's own metadata while containers
// run; a path within is what it was, and what is gone stays.
func TestMountedObjectsAreLive(t *testing.T) {
	node(t, func(r *rig) {
		for _, o := range []api.Object{
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cm"}, Data: map[string]string{"k": "1"}},
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "sec"}, Data: map[string][]byte{"s": []byte("1")}},
		} {
			if _, err := r.o.Create(t.Context(), o); err != nil && !apierrors.IsAlreadyExists(err) {
				t.Fatal(err)
			}
		}
		p := r.pod("p", func(p *corev1.Pod) {
			p.Labels = map[string]string{"version": "1"}
			source := corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}
			p.Spec.Volumes = []corev1.Volume{
				{Name: "cm", VolumeSource: source},
				{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "sec"}}},
					{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "version", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['version']"}}}}},
				}}}},
			}
		})
		r.want("p", "Running ready=true main:running/0")
		dir := filepath.Join(r.dir, "pods", string(p.UID))
		want := func(file, want string) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			got, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil || string(got) != want {
				t.Errorf("%s is %q, %v; want %q", file, got, err, want)
			}
		}
		want("volumes/cm/k", "1")
		set := func(v string, fix bool) {
			t.Helper()
			_, err := api.Mutate(t.Context(), api.Objects(r.o), api.ConfigMaps, "default", "cm", api.UpdateOptions{}, func(c *corev1.ConfigMap) (bool, error) {
				c.Data = map[string]string{"k": v, "new": v}
				if fix {
					c.Immutable = new(true)
				}
				return true, nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		set("2", false)
		want("volumes/cm/k", "2")
		want("volumes/cm/new", "2")
		_, err := api.Mutate(t.Context(), api.Objects(r.o), api.Secrets, "default", "sec", api.UpdateOptions{}, func(s *corev1.Secret) (bool, error) {
			s.Data["s"] = []byte("2")
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want("secrets/all/s", "2")
		_, err = api.Mutate(t.Context(), api.Objects(r.o), api.Pods, "default", "p", api.UpdateOptions{}, func(p *corev1.Pod) (bool, error) {
			p.Labels["version"] = "2"
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want("secrets/all/version", "2")
		r.o.requests()
		set("3", true)
		want("volumes/cm/k", "3")
		set("4", true) // this store does not keep what is immutable; the node does not look any more
		want("volumes/cm/k", "3")
		if _, err := r.o.Delete(t.Context(), api.Secrets, "default", "sec", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		want("secrets/all/s", "2")
		r.want("p", "Running ready=true main:running/0")
	})
}

// A pod whose emptyDir on disk outgrows its limit is evicted, and stays so.
func TestEmptyDirOutgrowsItsLimit(t *testing.T) {
	node(t, func(r *rig) {
		p := r.pod("p", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: new(resource.MustParse("1Mi"))}}}}
		})
		dir := filepath.Join(r.dir, "pods", string(p.UID), "volumes", "cache")
		write := func(name string, n int) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(dir, name), make([]byte, n), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("small", 512<<10)
		if err := os.Link(filepath.Join(dir, "small"), filepath.Join(dir, "again")); err != nil {
			t.Fatal(err)
		}
		r.after(25 * time.Second)
		r.want("p", "Running ready=true main:running/0")
		write("big", 600<<10)
		r.after(25 * time.Second)
		const why = `Usage of EmptyDir volume "cache" exceeds the limit "1Mi". `
		if got := r.get("p"); got.Status.Phase != corev1.PodFailed || got.Status.Reason != "Evicted" || got.Status.Message != why {
			t.Errorf("status %s %s %q", got.Status.Phase, got.Status.Reason, got.Status.Message)
		}
		if !r.events.has("Evicted: " + why) {
			t.Error("nobody was told")
		}
		r.after(time.Minute)
		if got := r.get("p"); got.Status.Reason != "Evicted" {
			t.Errorf("later: %s", look(got))
		}
	})
}
