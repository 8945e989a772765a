// Writes a vulnerability database of a few findings, with the library that Trivy reads it with: what tests know of an image, a real Trivy finds.
package main

import (
	"encoding/json"
	"log"
	"os"
	"time"

	"github.com/aquasecurity/trivy-db/pkg/db"
	"github.com/aquasecurity/trivy-db/pkg/metadata"
	"github.com/aquasecurity/trivy-db/pkg/types"
	bolt "go.etcd.io/bbolt"
)

// One finding, as tests write it. Fixed is empty where nothing mends it.
type finding struct{ ID, Severity, Package, Fixed, Title string }

// usage: database DIRECTORY SYSTEM HOURS < FINDINGS. SYSTEM is a distribution and its release ("debian 12"); HOURS the database's age.
func main() {
	directory, system := os.Args[1], os.Args[2]
	age, err := time.ParseDuration(os.Args[3] + "h")
	check(err)
	var findings []finding
	check(json.NewDecoder(os.Stdin).Decode(&findings))
	check(db.Init(directory))
	config := db.Config{}
	check(config.BatchUpdate(func(tx *bolt.Tx) error {
		for _, found := range findings {
			severity, err := types.NewSeverity(found.Severity)
			check(err)
			details := types.Vulnerability{Title: found.Title, VendorSeverity: types.VendorSeverity{"nvd": severity}}
			check(config.PutAdvisory(tx, []string{system, found.Package}, found.ID, types.Advisory{FixedVersion: found.Fixed}))
			check(config.PutVulnerability(tx, found.ID, details))
		}
		return config.PutDataSource(tx, system, types.DataSource{ID: "debian", Name: "Debian Security Tracker", URL: "https://salsa.debian.org/security-tracker-team/security-tracker"})
	}))
	check(db.Close())
	made := time.Now().UTC().Add(-age)
	check(metadata.NewClient(directory).Update(metadata.Metadata{Version: db.SchemaVersion, UpdatedAt: made, NextUpdate: made.Add(24 * time.Hour)}))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
