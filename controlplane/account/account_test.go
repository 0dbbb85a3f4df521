package account

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/controlplane/admission"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

type rig struct {
	*Desk
	objects *memory.Objects
	now     time.Time
	pod     *corev1.Pod
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{objects: memory.New(memory.Config{Admit: admission.Admit}), now: time.Now()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if r.Desk, err = New(Config{Objects: r.objects, Key: key, Now: func() time.Time { return r.now }}); err != nil {
		t.Fatal(err)
	}
	r.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}})
	r.create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "bot"}})
	r.create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "other"}})
	r.create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	r.pod = r.create(t, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"},
		Spec:       corev1.PodSpec{NodeName: "n1", ServiceAccountName: "bot", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}).(*corev1.Pod)
	return r
}

func (r *rig) create(t *testing.T, obj api.Object) api.Object {
	t.Helper()
	out, err := r.objects.Create(t.Context(), obj)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func toPod(name string, uid types.UID) *authenticationv1.TokenRequest {
	return &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: name, UID: uid}}}
}

// TestIssue says who gets which tokens: a node those of its own pods alone.
func TestIssue(t *testing.T) {
	r := newRig(t)
	node := func(name string) access.User {
		return access.User{Name: access.NodeUser(name), Groups: []string{access.Nodes}}
	}
	life := func(s int64) *authenticationv1.TokenRequest {
		return &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &s}}
	}
	uid := r.pod.UID
	other := toPod("p", uid)
	other.Spec.BoundObjectRef.Kind = "Deployment"
	for _, c := range []struct {
		name    string
		who     access.User
		account string
		q       *authenticationv1.TokenRequest
		is      func(error) bool // nil: it is made
		says    string
	}{
		{"an administrator", access.User{}, "bot", &authenticationv1.TokenRequest{}, nil, ""},
		{"for a pod", access.User{}, "bot", toPod("p", ""), nil, ""},
		{"the node of the pod", node("n1"), "bot", toPod("p", uid), nil, ""},
		{"another node", node("n2"), "bot", toPod("p", uid), apierrors.IsForbidden, "scheduled on a different node"},
		{"a node for nobody", node("n1"), "bot", &authenticationv1.TokenRequest{}, apierrors.IsForbidden, "not bound to a pod"},
		{"a node for some pod", node("n1"), "bot", toPod("p", ""), apierrors.IsForbidden, "without a uid"},
		{"a node for another account", node("n1"), "other", toPod("p", uid), apierrors.IsBadRequest, "different serviceaccount name"},
		{"a former pod", access.User{}, "bot", toPod("p", "x"), apierrors.IsConflict, "does not match"},
		{"no pod", access.User{}, "bot", toPod("q", ""), apierrors.IsNotFound, `"q" not found`},
		{"no account", access.User{}, "none", &authenticationv1.TokenRequest{}, apierrors.IsNotFound, `"none" not found`},
		{"too short", access.User{}, "bot", life(599), apierrors.IsInvalid, "less than 10 minutes"},
		{"too long", access.User{}, "bot", life(1<<32 + 1), apierrors.IsInvalid, "2^32"},
		{"bound to something else", access.User{}, "bot", other, apierrors.IsInvalid, `"v1 Pod", "v1 Secret"`},
	} {
		got, err := r.Issue(access.With(t.Context(), c.who), "ns", c.account, c.q)
		switch {
		case c.is == nil && (err != nil || got.Status.Token == "" || !got.Status.ExpirationTimestamp.After(r.now)):
			t.Errorf("%s: %v, %+v", c.name, err, got)
		case c.is != nil && (!c.is(err) || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
	}
}

// TestTokenCounts as long as it is fresh, whole, and what it is bound to is there.
func TestTokenCounts(t *testing.T) {
	r := newRig(t)
	q, err := r.Issue(t.Context(), "ns", "bot", toPod("p", ""))
	if err != nil {
		t.Fatal(err)
	}
	token := q.Status.Token
	u, err := r.User(t.Context(), token)
	if err != nil || u.Name != "system:serviceaccount:ns:bot" || !slices.Equal(u.Groups, []string{"system:serviceaccounts", "system:serviceaccounts:ns"}) {
		t.Fatalf("the token is of %+v, %v", u, err)
	}
	if got := u.Extra["authentication.kubernetes.io/pod-name"]; !slices.Equal(got, []string{"p"}) {
		t.Errorf("the pod is %q", got)
	}
	refused := func(name, token string) {
		t.Helper()
		if _, err := r.User(t.Context(), token); !apierrors.IsUnauthorized(err) {
			t.Errorf("%s: %v, want Unauthorized", name, err)
		}
	}
	stranger := newRig(t)
	foreign, err := stranger.Issue(t.Context(), "ns", "bot", &authenticationv1.TokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	refused("another cluster's", foreign.Status.Token)
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"iss": Issuer, "aud": Issuer, "sub": "system:serviceaccount:ns:bot", "exp": r.now.Add(time.Hour).Unix()}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	refused("one that nobody has signed", none)
	refused("half of it", token[:len(token)/2])
	r.now = r.now.Add(59 * time.Minute)
	if _, err := r.User(t.Context(), token); err != nil {
		t.Errorf("after 59 minutes: %v", err)
	}
	r.now = r.now.Add(2 * time.Minute)
	refused("an old one", token)
	r.now = r.now.Add(-time.Hour)
	if _, err := r.objects.Delete(t.Context(), api.Pods, "ns", "p", api.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
		t.Fatal(err)
	}
	refused("one of a pod that is gone", token)
	r.create(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: r.pod.Spec})
	refused("one of a pod whose name another has", token)
}

// TestAdmit gives new pods what comes with their accounts.
func TestAdmit(t *testing.T) {
	yes, no := new(true), new(false)
	accounts := map[string]*corev1.ServiceAccount{
		"bot":    {ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}}},
		"quiet":  {AutomountServiceAccountToken: no},
		"silent": {},
	}
	looks := 0
	admit := Admit(admission.Admit, func(_ context.Context, _, name string) (*corev1.ServiceAccount, error) {
		looks++
		if sa := accounts[name]; sa != nil {
			return sa, nil
		}
		return nil, apierrors.NewNotFound(api.ServiceAccounts.GR(), name)
	})
	for _, c := range []struct {
		name, account string
		says          *bool
		function      bool
		mounted       bool
		refused       string
		looks         int
	}{
		{"none, before there is one", "", nil, false, true, "", 1},
		{"one", "bot", nil, false, true, "", 1},
		{"one that does not mount", "quiet", nil, false, false, "", 1},
		{"one that does not, in a pod that does", "quiet", yes, false, true, "", 1},
		{"one that does, in a pod that does not", "silent", no, false, false, "", 1},
		{"one that is not there", "none", nil, false, false, `pods "p" is forbidden: error looking up service account ns/none: serviceaccounts "none" not found`, 1},
		{"a function's", "", no, true, false, "", 0},
	} {
		looks = 0
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{
			ServiceAccountName: c.account, AutomountServiceAccountToken: c.says,
			InitContainers: []corev1.Container{{Name: "first", Image: "i"}},
			Containers: []corev1.Container{
				{Name: "c", Image: "i"},
				{Name: "own", Image: "i", VolumeMounts: []corev1.VolumeMount{{Name: "mine", MountPath: mountPath}}},
			},
			Volumes: []corev1.Volume{{Name: "mine"}},
		}}
		if c.function {
			p.Labels = map[string]string{api.LabelFunction: "f"}
		}
		err := admit(t.Context(), "", api.Pods, nil, p, "")
		if c.refused != "" {
			if !apierrors.IsForbidden(err) || err.Error() != c.refused {
				t.Errorf("%s: %v, want %s", c.name, err, c.refused)
			}
			continue
		}
		if err != nil || looks != c.looks || p.Spec.ServiceAccountName == "" {
			t.Errorf("%s: %v, account %q, %d looks, want %d", c.name, err, p.Spec.ServiceAccountName, looks, c.looks)
		}
		mounts := func(i int, of []corev1.Container) int { return len(of[i].VolumeMounts) }
		got := []int{mounts(0, p.Spec.InitContainers), mounts(0, p.Spec.Containers), mounts(1, p.Spec.Containers), len(p.Spec.Volumes)}
		want := []int{0, 0, 1, 1}
		if c.mounted {
			want = []int{1, 1, 1, 2}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: mounts and volumes %v, want %v", c.name, got, want)
		}
		if errs := admission.Validate(p); len(errs) > 0 {
			t.Errorf("%s: the pod is not valid: %v", c.name, errs)
		}
		if c.account == "bot" && len(p.Spec.ImagePullSecrets) != 1 {
			t.Errorf("%s: pull secrets %v", c.name, p.Spec.ImagePullSecrets)
		}
	}
}
