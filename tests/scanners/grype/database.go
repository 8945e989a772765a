// Writes a vulnerability database of a few findings, with the library that Grype reads it with: what tests know of an image, a real Grype finds.
package main

import (
	"encoding/json"
	"log"
	"os"
	"time"

	db "github.com/anchore/grype/grype/db/v6"
)

// One finding, as tests write it. Fixed is empty where nothing mends it.
type finding struct{ ID, Severity, Package, Fixed, Title string }

// usage: database DIRECTORY < FINDINGS. They are about Debian 12.
func main() {
	var findings []finding
	check(json.NewDecoder(os.Stdin).Decode(&findings))
	store, err := db.NewWriter(db.Config{DBDirPath: os.Args[1]})
	check(err)
	now := time.Now().UTC()
	provider := &db.Provider{ID: "debian", Version: "1", Processor: "tests", DateCaptured: &now}
	check(store.AddProvider(*provider))
	for _, found := range findings {
		blob := &db.VulnerabilityBlob{
			ID:          found.ID,
			Description: found.Title,
			Severities:  []db.Severity{{Scheme: db.SeveritySchemeCHMLN, Value: found.Severity, Rank: 1}},
		}
		vulnerability := &db.VulnerabilityHandle{Name: found.ID, Status: db.VulnerabilityActive, ProviderID: provider.ID, Provider: provider, BlobValue: blob}
		check(store.AddVulnerabilities(vulnerability))
		affected := db.Range{Version: db.Version{Type: "dpkg"}, Fix: &db.Fix{State: db.NotFixedStatus}}
		if found.Fixed != "" {
			affected = db.Range{Version: db.Version{Type: "dpkg", Constraint: "< " + found.Fixed}, Fix: &db.Fix{State: db.FixedStatus, Version: found.Fixed}}
		}
		check(store.AddAffectedPackages(&db.AffectedPackageHandle{
			VulnerabilityID: vulnerability.ID,
			Vulnerability:   vulnerability,
			OperatingSystem: &db.OperatingSystem{Name: "debian", ReleaseID: "debian", MajorVersion: "12", Codename: "bookworm"},
			Package:         &db.Package{Ecosystem: "deb", Name: found.Package},
			BlobValue:       &db.PackageBlob{Ranges: []db.Range{affected}},
		}))
	}
	check(store.SetDBMetadata())
	check(store.Close())
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
