package definition

import (
	"fmt"
	"slices"
	"strings"

	"github.com/podsnap/podsnap/controlplane/custom"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// decide is the status of a definition that is not being deleted, among others of
// its group, as of now.
func decide(crd *apiextensionsv1.CustomResourceDefinition, others []*apiextensionsv1.CustomResourceDefinition, now metav1.Time) apiextensionsv1.CustomResourceDefinitionStatus {
	out := crd.DeepCopy()
	st := &out.Status
	for _, v := range crd.Spec.Versions {
		if v.Storage && !slices.Contains(st.StoredVersions, v.Name) {
			st.StoredVersions = append(st.StoredVersions, v.Name)
		}
	}
	reason, why := conflict(crd.Spec.Names, others)
	accepted := condition(apiextensionsv1.NamesAccepted, reason == "", "NoConflicts", "no conflicts found", reason, why)
	if reason == "" {
		st.AcceptedNames = *crd.Spec.Names.DeepCopy()
	}
	set(out, accepted, now)
	if !custom.IsTrue(crd, apiextensionsv1.Established) {
		set(out, condition(apiextensionsv1.Established, reason == "", "InitialNamesAccepted", "the initial names have been accepted", "NotAccepted", "not all names are accepted"), now)
	}
	return *st
}

func condition(t apiextensionsv1.CustomResourceDefinitionConditionType, is bool, yes, yesWhy, no, noWhy string) apiextensionsv1.CustomResourceDefinitionCondition {
	if is {
		return apiextensionsv1.CustomResourceDefinitionCondition{Type: t, Status: apiextensionsv1.ConditionTrue, Reason: yes, Message: yesWhy}
	}
	return apiextensionsv1.CustomResourceDefinitionCondition{Type: t, Status: apiextensionsv1.ConditionFalse, Reason: no, Message: noWhy}
}

// set puts a condition in; its time is that of the last change of its status.
func set(crd *apiextensionsv1.CustomResourceDefinition, c apiextensionsv1.CustomResourceDefinitionCondition, now metav1.Time) {
	c.LastTransitionTime = now
	old := custom.Condition(crd, c.Type)
	if old == nil {
		crd.Status.Conditions = append(crd.Status.Conditions, c)
		return
	}
	if old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	*old = c
}

// conflict says which of the names that a definition wants somebody else has; ""
// is none.
func conflict(n apiextensionsv1.CustomResourceDefinitionNames, others []*apiextensionsv1.CustomResourceDefinition) (reason, why string) {
	for _, o := range others {
		taken := o.Status.AcceptedNames
		names := custom.Names(taken)
		for _, c := range []struct {
			reason string
			names  []string
		}{{"PluralConflict", []string{n.Plural}}, {"SingularConflict", []string{n.Singular}}, {"ShortNamesConflict", n.ShortNames}} {
			for _, name := range c.names {
				if name != "" && slices.Contains(names, name) {
					return c.reason, fmt.Sprintf("%q is already in use by %s", name, o.Name)
				}
			}
		}
		for _, c := range []struct{ reason, name string }{{"KindConflict", n.Kind}, {"ListKindConflict", n.ListKind}} {
			if c.name != "" && (strings.EqualFold(c.name, taken.Kind) || strings.EqualFold(c.name, taken.ListKind)) {
				return c.reason, fmt.Sprintf("%q is already in use by %s", c.name, o.Name)
			}
		}
	}
	return "", ""
}
