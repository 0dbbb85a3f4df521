package deployment

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/podsnap/podsnap/api"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
)

// Annotations of Kubernetes' deployment controller, which kubectl reads.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
)

// hash tells templates apart. It only has to be stable as long as the set that
// it names is being made: later the set is found by its template.
func hash(t *corev1.PodTemplateSpec, collisions *int32) (string, error) {
	b, err := json.Marshal(t)
	if err != nil {
		return "", fmt.Errorf("hash the pod template: %w", err)
	}
	h := fnv.New32a()
	_, _ = h.Write(b)
	if collisions != nil {
		_, _ = fmt.Fprintf(h, "/%d", *collisions)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10)), nil
}

// sameTemplate compares two templates but for the hash label.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	return api.Alike(withoutHash(a), withoutHash(b))
}

func withoutHash(t *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
	out := *t
	out.Labels = maps.Clone(t.Labels)
	delete(out.Labels, api.LabelPodTemplateHash)
	return &out
}

// newSet is the ReplicaSet for the deployment's template, with no replicas yet.
func newSet(d *appsv1.Deployment) (*appsv1.ReplicaSet, error) {
	h, err := hash(&d.Spec.Template, d.Status.CollisionCount)
	if err != nil {
		return nil, err
	}
	t := d.Spec.Template.DeepCopy()
	t.Labels = with(t.Labels, api.LabelPodTemplateHash, h)
	sel := d.Spec.Selector.DeepCopy()
	sel.MatchLabels = with(sel.MatchLabels, api.LabelPodTemplateHash, h)
	return &appsv1.ReplicaSet{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ReplicaSet"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: d.Name + "-" + h, Labels: maps.Clone(t.Labels), Annotations: map[string]string{},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, api.Deployments.GVK())},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: new(int32), MinReadySeconds: d.Spec.MinReadySeconds, Selector: sel, Template: *t,
		},
	}, nil
}

// annotate brings the current set's annotations up to date: those of the
// deployment, and a revision above every other set's. It reports a change.
func annotate(d *appsv1.Deployment, current *appsv1.ReplicaSet, old []*member) bool {
	changed := false
	put := func(k, v string) {
		if current.Annotations[k] != v {
			current.Annotations = with(current.Annotations, k, v)
			changed = true
		}
	}
	for k, v := range d.Annotations {
		if !strings.HasPrefix(k, "deployment.kubernetes.io/") && k != corev1.LastAppliedConfigAnnotation {
			put(k, v)
		}
	}
	highest := int64(0)
	for _, m := range old {
		highest = max(highest, revision(m.rs))
	}
	if mine := revision(current); mine <= highest {
		if mine > 0 { // rolled back: remember what it was
			h := strconv.FormatInt(mine, 10)
			if was := current.Annotations[historyAnnotation]; was != "" {
				h = was + "," + h
			}
			put(historyAnnotation, h)
		}
		put(revisionAnnotation, strconv.FormatInt(highest+1, 10))
	}
	return changed
}

func revision(o metav1.Object) int64 {
	n, _ := strconv.ParseInt(o.GetAnnotations()[revisionAnnotation], 10, 64) // not a number is none
	return n
}

// surplus are old, empty sets beyond the history that the deployment keeps, the
// lowest revisions first.
func surplus(d *appsv1.Deployment, old []*member) []*appsv1.ReplicaSet {
	keep := 10
	if d.Spec.RevisionHistoryLimit != nil {
		keep = int(*d.Spec.RevisionHistoryLimit)
	}
	var idle []*appsv1.ReplicaSet
	for _, m := range old {
		if m.spec() == 0 && m.all == 0 && m.rs.Status.Replicas == 0 && m.rs.DeletionTimestamp == nil && m.rs.Status.ObservedGeneration >= m.rs.Generation {
			idle = append(idle, m.rs)
		}
	}
	if len(idle) <= keep {
		return nil
	}
	slices.SortFunc(idle, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(cmp.Compare(revision(a), revision(b)), strings.Compare(a.Name, b.Name))
	})
	return idle[:len(idle)-keep]
}

func with(m map[string]string, k, v string) map[string]string {
	out := maps.Clone(m)
	if out == nil {
		out = map[string]string{}
	}
	out[k] = v
	return out
}
