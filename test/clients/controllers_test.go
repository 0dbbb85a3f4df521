package clients

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/podsnap/podsnap/test/history"
)

// unserved are the controllers that follow kinds that the API does not have.
var unserved = []string{
	"service-cidr-controller", "validatingadmissionpolicy-status-controller", "volumeattributesclass-protection-controller", "storage-version-migrator-controller", "podcertificaterequest-cleaner-controller",
}

// authority is a certificate that signs, and its key, in PEM.
func authority(t *testing.T) (crt, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "theirs"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}))
}

// theirs is Kubernetes' controller manager at work, and somebody who uses the API.
type theirs struct {
	*testing.T
	kubernetes.Interface
	says *says
}

// Kubernetes' controllers do all of their work over the API, which here has none of its
// own.
func TestUpstreamControllers(t *testing.T) {
	s := newServer(t)
	u := newUpstream(t, s, "kube-controller-manager")
	namespace(t, s)
	user := client(t, s)
	for _, ns := range []string{"kube-system", "kube-public", "default", "goes"} {
		if _, err := user.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	crt, key := authority(t)
	ca := u.write("ca.crt", crt)
	k := theirs{t, user, u.run(
		"--kubeconfig="+u.kubeconfig, "--authentication-kubeconfig="+u.kubeconfig, "--authorization-kubeconfig="+u.kubeconfig,
		"--leader-elect-resource-namespace="+history.Namespace, "--controllers=*,bootstrap-signer-controller,token-cleaner-controller,-"+strings.Join(unserved, ",-"),
		"--root-ca-file="+ca, "--cluster-signing-cert-file="+ca, "--cluster-signing-key-file="+u.write("ca.key", key), "--concurrent-gc-syncs=2", "--node-monitor-period=1s",
	)}
	t.Run("work", func(t *testing.T) {
		for name, f := range map[string]func(theirs){"deployment": theirs.deployment, "job": theirs.job, "namespaces": theirs.namespaces, "nodes": theirs.nodes, "tokens": theirs.tokens, "certificates": theirs.certificates, "quota": theirs.quota} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				k := k
				k.T = t
				f(k)
			})
		}
	})
	if l, err := user.CoordinationV1().Leases(history.Namespace).Get(t.Context(), "kube-controller-manager", metav1.GetOptions{}); err != nil || time.Since(l.Spec.RenewTime.Time) > time.Minute {
		t.Errorf("the lease is %+v, %v", l, err)
	}
	for line := range strings.Lines(k.says.String()) {
		if fault.MatchString(line) && !usual.MatchString(line) {
			t.Errorf("it says %s", line)
		}
	}
}

var (
	fault = regexp.MustCompile(`^[EF]\d{4} |the server could not find the requested resource|panic`)
	// Two of its controllers write one object, or the object has gone meanwhile, or it
	// waits until it has read what it has written; and it has no static pods to read.
	usual = regexp.MustCompile(`the object has been modified|not found|AlreadyExists|already exists|because it is being terminated|is not as new as written version|manifest file is empty`)
)

// until waits until check answers nil.
func (k theirs) until(check func() error) {
	k.Helper()
	eventually(k.T, check)
}

func (k theirs) pods(label string) ([]corev1.Pod, error) {
	l, err := k.CoreV1().Pods(history.Namespace).List(k.Context(), metav1.ListOptions{LabelSelector: label})
	if err != nil {
		return nil, err
	}
	return l.Items, nil
}

// there waits for so many pods.
func (k theirs) there(label string, n int) (all []corev1.Pod) {
	k.Helper()
	k.until(func() (err error) {
		if all, err = k.pods(label); err == nil && len(all) != n {
			err = fmt.Errorf("there are %d pods of %s, want %d", len(all), label, n)
		}
		return err
	})
	return all
}

// becomes writes the status of a pod, as its node would.
func (k theirs) becomes(p *corev1.Pod, phase corev1.PodPhase) {
	k.Helper()
	p = p.DeepCopy()
	p.Status.Phase, p.Status.PodIP, p.Status.PodIPs = phase, "10.1.2.3", []corev1.PodIP{{IP: "10.1.2.3"}}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
	p.ResourceVersion = ""
	if _, err := k.CoreV1().Pods(p.Namespace).UpdateStatus(k.Context(), p, metav1.UpdateOptions{}); err != nil {
		k.Fatal(err)
	}
}

func template(app string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i:1"}}},
	}
}

// deployment goes through one's days: its pods, another number, another image, its end
// and theirs.
func (k theirs) deployment() {
	ctx := k.Context()
	all := k.AppsV1().Deployments(history.Namespace)
	if _, err := all.Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{
		Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: template("web"),
	}}, metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	for _, p := range k.there("app=web", 2) {
		k.becomes(&p, corev1.PodRunning)
	}
	k.until(func() error {
		d, err := all.Get(ctx, "web", metav1.GetOptions{})
		if err == nil && d.Status.AvailableReplicas != 2 {
			err = fmt.Errorf("the deployment is %+v", d.Status)
		}
		return err
	})
	if _, err := all.Patch(ctx, "web", "application/merge-patch+json", []byte(`{"spec":{"replicas":3,"template":{"spec":{"containers":[{"name":"c","image":"i:2"}]}}}}`), metav1.PatchOptions{}); err != nil {
		k.Fatal(err)
	}
	k.until(func() error { // each new pod becomes ready, until all are new
		pods, err := k.pods("app=web")
		if err != nil {
			return err
		}
		fresh := 0
		for _, p := range pods {
			if p.Spec.Containers[0].Image == "i:2" {
				fresh++
				if p.Status.Phase != corev1.PodRunning {
					k.becomes(&p, corev1.PodRunning)
				}
			}
		}
		if fresh != 3 || len(pods) != 3 {
			return fmt.Errorf("of %d pods %d are new, want 3", len(pods), fresh)
		}
		return nil
	})
	if err := all.Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		k.Fatal(err)
	}
	k.there("app=web", 0) // by the garbage collector, and the ReplicaSets before them
}

// job ends when its pods have, and is deleted when its time is over.
func (k theirs) job() {
	jobs := k.BatchV1().Jobs(history.Namespace)
	if _, err := jobs.Create(k.Context(), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "task"}, Spec: batchv1.JobSpec{
		Completions: new(int32(2)), Parallelism: new(int32(2)), TTLSecondsAfterFinished: new(int32(1)),
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}}, metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	for _, p := range k.there("job-name=task", 2) {
		k.becomes(&p, corev1.PodSucceeded)
	}
	k.until(func() error {
		j, err := jobs.Get(k.Context(), "task", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("the job is %+v", j.Status)
		}
		return err
	})
}

// namespaces get an account and the authority, and end with what is in them.
func (k theirs) namespaces() {
	ctx := k.Context()
	k.until(func() error {
		_, err := k.CoreV1().ServiceAccounts("goes").Get(ctx, "default", metav1.GetOptions{})
		if err == nil {
			_, err = k.CoreV1().ConfigMaps("goes").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		}
		return err
	})
	if err := k.CoreV1().Namespaces().Delete(ctx, "goes", metav1.DeleteOptions{}); err != nil {
		k.Fatal(err)
	}
	k.until(func() error {
		ns, err := k.CoreV1().Namespaces().Get(ctx, "goes", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("the namespace is %+v", ns.Status)
		}
		return err
	})
}

// nodes are told how long what they read may be old.
func (k theirs) nodes() {
	nodes := k.CoreV1().Nodes()
	if _, err := nodes.Create(k.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}, metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	k.until(func() error {
		n, err := nodes.Get(k.Context(), "theirs", metav1.GetOptions{})
		if err == nil && n.Annotations["node.alpha.kubernetes.io/ttl"] != "0" {
			err = fmt.Errorf("the node's annotations are %v", n.Annotations)
		}
		return err
	})
}

// tokens by which machines join are in the ConfigMap cluster-info, signed, until they
// expire and are deleted.
func (k theirs) tokens() {
	ctx, secrets := k.Context(), k.CoreV1().Secrets("kube-system")
	if _, err := k.CoreV1().ConfigMaps("kube-public").Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "cluster-info"}, Data: map[string]string{"kubeconfig": "clusters: []"},
	}, metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	if _, err := secrets.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-abcdef"}, Type: corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true"},
	}, metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	k.until(func() error {
		cm, err := k.CoreV1().ConfigMaps("kube-public").Get(ctx, "cluster-info", metav1.GetOptions{})
		if err == nil && cm.Data["jws-kubeconfig-abcdef"] == "" {
			err = fmt.Errorf("cluster-info is %v", cm.Data)
		}
		return err
	})
	patch := fmt.Sprintf(`{"stringData":{"expiration":%q}}`, time.Now().Add(-time.Second).UTC().Format(time.RFC3339))
	if _, err := secrets.Patch(ctx, "bootstrap-token-abcdef", "application/merge-patch+json", []byte(patch), metav1.PatchOptions{}); err != nil {
		k.Fatal(err)
	}
	k.until(func() error {
		_, err := secrets.Get(ctx, "bootstrap-token-abcdef", metav1.GetOptions{})
		if err == nil {
			return errors.New("the token is there")
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// certificates are signed when they are approved.
func (k theirs) certificates() {
	ctx, all := k.Context(), k.CertificatesV1().CertificateSigningRequests()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		k.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, key)
	if err != nil {
		k.Fatal(err)
	}
	o, err := all.Create(ctx, &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "jane"}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: certificatesv1.KubeAPIServerClientSignerName,
		Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
	}}, metav1.CreateOptions{})
	if err != nil {
		k.Fatal(err)
	}
	o.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
	if _, err := all.UpdateApproval(ctx, "jane", o, metav1.UpdateOptions{}); err != nil {
		k.Fatal(err)
	}
	k.until(func() error {
		o, err := all.Get(ctx, "jane", metav1.GetOptions{})
		if err == nil && !bytes.HasPrefix(o.Status.Certificate, []byte("-----BEGIN CERTIFICATE-----")) {
			err = fmt.Errorf("the request is %+v", o.Status)
		}
		return err
	})
}

// quota is counted. What is created after it is counted by who admits it, not by them.
func (k theirs) quota() {
	ctx, all := k.Context(), k.CoreV1().ResourceQuotas("default")
	if _, err := k.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	if _, err := all.Create(ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/secrets": resource.MustParse("5")}},
	}, metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	k.until(func() error {
		q, err := all.Get(ctx, "q", metav1.GetOptions{})
		if used := q.Status.Used["count/secrets"]; err == nil && used.Value() != 1 {
			err = fmt.Errorf("used is %s", used.String())
		}
		return err
	})
}
