package dialect

import (
	"net/http"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
)

// labelSecret marks the Secrets that were made through this API: only those are
// listed, changed and deleted through it.
const labelSecret = "podsnap.dev/function-secret"

func (d *Dialect) listSecrets(w http.ResponseWriter, r *http.Request) error {
	ns, err := d.functionNamespace(r, "")
	if err != nil {
		return err
	}
	items, err := api.Items[*corev1.Secret](r.Context(), d.c.Objects, api.Secrets, api.ListOptions{
		Namespace: ns, Labels: labels.SelectorFromSet(labels.Set{labelSecret: "1"}),
	})
	if err != nil {
		return err
	}
	out := make([]openfaas.Secret, 0, len(items))
	for _, s := range items {
		out = append(out, openfaas.Secret{Name: s.Name, Namespace: s.Namespace})
	}
	return write(w, out)
}

// readSecret reads and judges; the value too, when there has to be one.
func (d *Dialect) readSecret(r *http.Request, withValue bool) (openfaas.Secret, []byte, error) {
	var in openfaas.Secret
	if err := read(r, &in, false); err != nil {
		return in, nil, err
	}
	if msgs := validation.IsDNS1123Subdomain(in.Name); len(msgs) > 0 {
		return in, nil, badRequest("name: %q: %s", short(in.Name), msgs[0])
	}
	ns, err := d.functionNamespace(r, in.Namespace)
	if err != nil {
		return in, nil, err
	}
	in.Namespace = ns
	value := in.RawValue
	if len(value) == 0 {
		value = []byte(in.Value)
	}
	switch {
	case !withValue:
	case len(value) == 0:
		return in, nil, badRequest("value: secret %s has none: send value, or rawValue in base64", in.Name)
	case len(value) > maxSecret:
		return in, nil, fault(http.StatusRequestEntityTooLarge, "value: secret %s is larger than %d bytes", in.Name, maxSecret)
	}
	return in, value, nil
}

func (d *Dialect) createSecret(w http.ResponseWriter, r *http.Request) error {
	in, value, err := d.readSecret(r, true)
	if err != nil {
		return err
	}
	_, err = d.c.Objects.Create(r.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: in.Name, Namespace: in.Namespace, Labels: map[string]string{labelSecret: "1"}},
		Type:       corev1.SecretTypeOpaque,
		Data:       map[string][]byte{in.Name: value}, // the key becomes the file's name
	})
	if apierrors.IsAlreadyExists(err) {
		return fault(http.StatusConflict, "secret %s exists already in namespace %s: update it with PUT", in.Name, in.Namespace)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (d *Dialect) updateSecret(w http.ResponseWriter, r *http.Request) error {
	in, value, err := d.readSecret(r, true)
	if err != nil {
		return err
	}
	_, err = api.Mutate(r.Context(), d.c.Objects, api.Secrets, in.Namespace, in.Name, api.UpdateOptions{}, func(s *corev1.Secret) (bool, error) {
		if s.Labels[labelSecret] != "1" || s.DeletionTimestamp != nil {
			return false, noSecret(in)
		}
		s.Data = map[string][]byte{in.Name: value}
		return true, nil
	})
	if apierrors.IsNotFound(err) {
		return noSecret(in)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (d *Dialect) deleteSecret(w http.ResponseWriter, r *http.Request) error {
	in, _, err := d.readSecret(r, false)
	if err != nil {
		return err
	}
	s, err := api.Get[*corev1.Secret](r.Context(), d.c.Objects, api.Secrets, in.Namespace, in.Name)
	if apierrors.IsNotFound(err) || err == nil && s.Labels[labelSecret] != "1" {
		return noSecret(in)
	}
	if err != nil {
		return err
	}
	_, err = d.c.Objects.Delete(r.Context(), api.Secrets, in.Namespace, in.Name, api.DeleteOptions{UID: s.UID})
	if apierrors.IsNotFound(err) {
		return noSecret(in)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func noSecret(s openfaas.Secret) error {
	return fault(http.StatusNotFound, "secret %s.%s: not found", s.Name, s.Namespace)
}
