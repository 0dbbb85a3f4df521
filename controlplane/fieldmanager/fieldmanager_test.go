package fieldmanager_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/fieldmanager"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func as(o api.Objects, manager string) *fieldmanager.Objects {
	return &fieldmanager.Objects{Objects: o, Manager: manager, Default: admission.Default}
}

// TestManyManagersAtOnce: managers that apply, patch and update one object at the
// same time all get what they want, and it is on record who wanted what.
func TestManyManagersAtOnce(t *testing.T) {
	const managers = 8
	o := memory.New(memory.Config{Admit: admission.Admit})
	var wg sync.WaitGroup
	for i := range managers {
		wg.Go(func() {
			m := as(o, fmt.Sprint("m", i))
			_, _, err := m.Apply(t.Context(), api.ConfigMaps, "d", "cm", fieldmanager.Configuration{
				Data: fmt.Appendf(nil, "{apiVersion: v1, kind: ConfigMap, data: {applied-%d: x}}", i),
			})
			if err != nil {
				t.Errorf("apply %d: %v", i, err)
				return
			}
			if _, err := m.Patch(t.Context(), api.ConfigMaps, "d", "cm", api.Patch{Type: types.MergePatchType, Data: fmt.Appendf(nil, `{"data":{"patched-%d":"x"}}`, i)}); err != nil {
				t.Errorf("patch %d: %v", i, err)
			}
			if _, err := api.Mutate(t.Context(), api.Objects(m), api.ConfigMaps, "d", "cm", api.UpdateOptions{}, func(c *corev1.ConfigMap) (bool, error) {
				c.Data[fmt.Sprint("updated-", i)] = "x"
				return true, nil
			}); err != nil {
				t.Errorf("update %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	cm, err := api.Get[*corev1.ConfigMap](t.Context(), o, api.ConfigMaps, "d", "cm")
	if err != nil {
		t.Fatal(err)
	}
	if len(cm.Data) != 3*managers {
		t.Errorf("there are %d entries, want %d: %v", len(cm.Data), 3*managers, cm.Data)
	}
	fields := map[string]string{}
	for _, f := range cm.ManagedFields {
		fields[f.Manager+" "+string(f.Operation)] = string(f.FieldsV1.GetRawBytes())
		if f.Time == nil || f.Time.Nanosecond() != 0 {
			t.Errorf("%s has the time %v, want whole seconds", f.Manager, f.Time)
		}
	}
	for i := range managers {
		if got, want := fields[fmt.Sprintf("m%d Apply", i)], fmt.Sprintf(`{"f:data":{"f:applied-%d":{}}}`, i); got != want {
			t.Errorf("manager %d has applied %s, want %s", i, got, want)
		}
		if got, want := fields[fmt.Sprintf("m%d Update", i)], fmt.Sprintf(`{"f:data":{"f:patched-%d":{},"f:updated-%d":{}}}`, i, i); got != want {
			t.Errorf("manager %d has written %s, want %s", i, got, want)
		}
	}
}

// TestConflictsEnd: what would conflict for ever is an answer, not another try.
func TestConflictsEnd(t *testing.T) {
	o := memory.New(memory.Config{Admit: admission.Admit})
	m := as(o, "m")
	made, err := m.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "cm"}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 4)
	go func() {
		_, err := m.Update(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "cm", UID: "other"}}, api.UpdateOptions{})
		done <- err
		_, err = m.Update(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "cm", ResourceVersion: "9999"}}, api.UpdateOptions{})
		done <- err
		_, _, err = m.Apply(t.Context(), api.ConfigMaps, "d", "cm", fieldmanager.Configuration{Data: []byte("{apiVersion: v1, kind: ConfigMap, metadata: {uid: other}}")})
		done <- err
		_, _, err = m.Apply(t.Context(), api.ConfigMaps, "d", "new", fieldmanager.Configuration{Data: []byte("{apiVersion: v1, kind: ConfigMap, metadata: {uid: other}}")})
		done <- err
	}()
	late := time.After(time.Minute)
	for range cap(done) {
		select {
		case err := <-done:
			if !apierrors.IsConflict(err) {
				t.Errorf("got %v, want a conflict", err)
			}
		case <-late:
			t.Fatal("it tries for ever")
		}
	}
	now, err := o.Get(t.Context(), api.ConfigMaps, "d", "cm")
	if err != nil || now.GetResourceVersion() != made.GetResourceVersion() {
		t.Errorf("what was refused has changed %v to %v (%v)", made, now, err)
	}
}

// TestWhatGoesByIsUntouched: writes that do not come through a manager leave the
// record as it is, those of the status too.
func TestWhatGoesByIsUntouched(t *testing.T) {
	o := memory.New(memory.Config{Admit: admission.Admit})
	labels := map[string]string{"a": "b"}
	made, err := as(o, "m").Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "dep"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(made.GetManagedFields()) != 1 {
		t.Fatalf("a new object is managed by %v", made.GetManagedFields())
	}
	for _, part := range []string{"", "status"} {
		got, err := api.Mutate(t.Context(), api.Objects(o), api.Deployments, "d", "dep", api.UpdateOptions{Subresource: part}, func(d *appsv1.Deployment) (bool, error) {
			d.Spec.Replicas, d.Status.Replicas = new(int32(7)), 7
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(got.ManagedFields) != 1 || got.ManagedFields[0].Manager != "m" || got.ManagedFields[0].FieldsV1.GetRawString() != made.GetManagedFields()[0].FieldsV1.GetRawString() {
			t.Errorf("after a write of %q that went by it is managed by %v", part, got.ManagedFields)
		}
	}
}
