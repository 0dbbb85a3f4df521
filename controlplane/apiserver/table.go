package apiserver

import (
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/podsnap/podsnap/api"
)

func tableType() metav1.TypeMeta {
	return metav1.TypeMeta{Kind: asTable, APIVersion: metav1.GroupName + "/v1"}
}

func partialType() metav1.TypeMeta {
	return metav1.TypeMeta{Kind: asPartial, APIVersion: metav1.GroupName + "/v1"}
}

// newTable is objects as kubectl prints them. The includeObject parameter says
// what of each object comes along.
func newTable(c *call, objects []api.Object) (*metav1.Table, error) {
	include := metav1.IncludeObjectPolicy(c.r.URL.Query().Get("includeObject"))
	switch include {
	case "":
		include = metav1.IncludeMetadata
	case metav1.IncludeNone, metav1.IncludeMetadata, metav1.IncludeObject:
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("includeObject: %q must be None, Metadata or Object", include))
	}
	cols := columnsOf(c.resource)
	t := &metav1.Table{TypeMeta: tableType(), Rows: make([]metav1.TableRow, 0, len(objects))}
	for _, col := range cols {
		t.ColumnDefinitions = append(t.ColumnDefinitions, col.TableColumnDefinition)
	}
	now := time.Now()
	for _, obj := range objects {
		row := metav1.TableRow{Cells: make([]any, len(cols))}
		for i, col := range cols {
			row.Cells[i] = col.cell(obj, now)
		}
		switch include {
		case metav1.IncludeNone:
		case metav1.IncludeMetadata:
			row.Object = runtime.RawExtension{Object: partial(obj)}
		case metav1.IncludeObject:
			row.Object = runtime.RawExtension{Object: c.shown(obj)}
		}
		t.Rows = append(t.Rows, row)
	}
	return t, nil
}

// partial is an object's metadata alone.
func partial(obj api.Object) *metav1.PartialObjectMetadata {
	p := &metav1.PartialObjectMetadata{TypeMeta: partialType()}
	p.ObjectMeta = metav1.ObjectMeta{
		Name: obj.GetName(), GenerateName: obj.GetGenerateName(), Namespace: obj.GetNamespace(),
		UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(), Generation: obj.GetGeneration(),
		CreationTimestamp: obj.GetCreationTimestamp(), DeletionTimestamp: obj.GetDeletionTimestamp(),
		DeletionGracePeriodSeconds: obj.GetDeletionGracePeriodSeconds(),
		Labels:                     obj.GetLabels(), Annotations: obj.GetAnnotations(),
		OwnerReferences: obj.GetOwnerReferences(), Finalizers: obj.GetFinalizers(), ManagedFields: obj.GetManagedFields(),
	}
	return p
}

func partialList(m metav1.ListMeta, objects []api.Object) *metav1.PartialObjectMetadataList {
	l := &metav1.PartialObjectMetadataList{
		TypeMeta: metav1.TypeMeta{Kind: asPartialList, APIVersion: metav1.GroupName + "/v1"},
		ListMeta: m, Items: make([]metav1.PartialObjectMetadata, 0, len(objects)),
	}
	for _, obj := range objects {
		l.Items = append(l.Items, *partial(obj))
	}
	return l
}

// age is how long ago t was, for people.
func age(t, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t))
}
