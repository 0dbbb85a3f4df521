package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/test/cluster/load"
	"github.com/podsnap/podsnap/test/platform"
)

// plain is a Deployment that is no function, so that its pod is containerd's,
// which finds it after a power cut.
func plain() *appsv1.Deployment {
	l := map[string]string{"app": "plain"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "plain"},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](1), Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "witness", Image: "witness:latest", ImagePullPolicy: corev1.PullIfNotPresent}}},
			},
		},
	}
}

// plainRuns tells what is wrong with the one pod of plain, and with what runs of
// it on the host.
func plainRuns(ctx context.Context, n *Node) error {
	all, err := api.Items[*corev1.Pod](ctx, n.Objects(), api.Pods, api.ListOptions{Namespace: "default"})
	if err != nil {
		return err
	}
	ready := 0
	for _, p := range all {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				ready++
			}
		}
	}
	if len(all) != 1 || ready != 1 {
		return fmt.Errorf("plain has %d pods, %d are ready", len(all), ready)
	}
	running, err := n.Host.Processes()
	shims := 0
	for _, r := range running {
		if strings.HasPrefix(r.Program, "containerd-shim") {
			shims++
		}
	}
	if err == nil && shims != 1 {
		err = fmt.Errorf("there are %d shims", shims)
	}
	return err
}

// TestPowerCuts switches a host off again and again, at moments that nobody has
// chosen: while it starts, while it works. It comes back each time, and what it
// has accepted is executed. CLUSTER_CUTS is how often, CLUSTER_SEED the seed of
// the moments.
func TestPowerCuts(t *testing.T) {
	number := func(name string, otherwise int) int {
		n, err := strconv.Atoi(os.Getenv(name))
		if err != nil {
			return otherwise
		}
		return n
	}
	cuts := number("CLUSTER_CUTS", 0)
	if cuts == 0 {
		t.Skip("it takes minutes: make cluster-test")
	}
	seed := number("CLUSTER_SEED", 1)
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	c := New(t, Config{Hosts: 1})
	w := newWitness(t, c)
	client := c.Client.HTTPClient()
	c.Images(c.Hosts[0], Build(t, "testdata")...)
	n := c.Server(c.Hosts[0])
	if err := deploy(t.Context(), n, 2, map[string]string{"WITNESS": w.URL}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Objects().Create(t.Context(), plain()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	queued := load.Start(ctx, load.Config{
		Gateways: []string{n.URL}, Client: client, Path: "/async-function/witness?tell", Rate: asyncRate, Timeout: patience, Name: "c",
		Resend: true, Want: http.StatusAccepted,
	})
	answers := func() error { return call(t.Context(), client, n, 5*time.Second) }
	platform.Eventually(t, patience, answers)
	platform.Eventually(t, patience, func() error { return plainRuns(t.Context(), n) })
	var slowest time.Duration
	for i := range cuts {
		// Up to two seconds after it was told to start, half of the time, or
		// after it has answered.
		early := i > 0 && random.IntN(2) == 0
		if !early {
			start := time.Now()
			platform.Eventually(t, patience, answers)
			if d := time.Since(start); i > 0 {
				slowest = max(slowest, d)
			}
		}
		wait := time.NewTimer(time.Duration(random.Int64N(int64(2 * time.Second))))
		<-wait.C
		if err := n.Host.PowerOff(); err != nil {
			t.Fatal(err)
		}
		if err := n.Host.Boot(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.Launch()
	}
	n.Await()
	platform.Eventually(t, patience, answers)
	platform.Eventually(t, patience, func() error {
		f, err := n.Client.Function(t.Context(), "", "witness", false)
		if err == nil && f.AvailableReplicas != 2 {
			err = fmt.Errorf("there are %d replicas", f.AvailableReplicas)
		}
		return err
	})
	platform.Eventually(t, patience, func() error { return plainRuns(t.Context(), n) })
	calls := queued.Stop()
	accepted := load.Accepted(calls)
	once := load.Accepted(slices.DeleteFunc(slices.Clone(calls), func(c load.Call) bool { return c.Tries > 1 }))
	platform.Eventually(t, 2*patience, func() error { return w.all(accepted) })
	_, twice := w.missing(accepted)
	_, again := w.missing(once)
	t.Logf("%d power cuts (seed %d): its function answered %.1f s after it was switched on at the latest; %d calls accepted and executed, %d of them more than once, of which %d were sent once",
		cuts, seed, slowest.Seconds(), len(accepted), twice, again)
	if len(accepted) < cuts {
		t.Errorf("only %d calls were accepted: the test shows nothing", len(accepted))
	}
}
